import { defineConfig } from 'vitest/config'
import type { Reporter } from 'vitest/node'

/** Closes the output with one line that people and scripts can read. */
const summaryLine: Reporter = {
	onTestRunEnd(testModules, unhandledErrors) {
		const count = { passed: 0, failed: unhandledErrors.length, skipped: 0, pending: 0 }
		for (const module of testModules) {
			// A module that could not be loaded, or a hook that threw, has errors of its own and perhaps no test.
			count.failed += module.errors().length
			for (const suite of module.children.allSuites()) count.failed += suite.errors().length
			for (const test of module.children.allTests()) count[test.result().state] += 1
		}
		const skipped = count.skipped + count.pending
		console.log(
			`Tests: ${count.passed} passed, ${count.failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`,
		)
	},
}

export default defineConfig({
	test: {
		pool: 'forks',
		maxWorkers: 2,
		testTimeout: 30_000,
		hookTimeout: 120_000,
		reporters: ['default', summaryLine],
		coverage: { provider: 'v8', include: ['src/**/*.ts', 'functions/**/*.ts', 'worker/**/*.ts'] },
		projects: [
			{
				// Pure decisions: `npx vitest run --project unit` needs no server.
				extends: true,
				test: { name: 'unit', include: ['test/unit/**/*.test.ts'] },
			},
			{
				// Everything else runs against private servers, which the global setup starts and stops.
				extends: true,
				test: {
					name: 'services',
					include: ['test/**/*.test.ts'],
					exclude: ['test/unit/**'],
					globalSetup: ['test/support/global-setup.ts'],
				},
			},
		],
	},
})
