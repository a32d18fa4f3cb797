import { defineConfig } from 'vitest/config'
import type { Reporter } from 'vitest/node'

/** Closes the output with one line that people and scripts can read, after the tests that passed only when repeated. */
const summaryLine: Reporter = {
	onTestRunEnd(testModules, unhandledErrors) {
		const count = { passed: 0, failed: unhandledErrors.length, skipped: 0, pending: 0 }
		const repeated: string[] = []
		for (const module of testModules) {
			// A module that could not be loaded, or a hook that threw, has errors of its own and perhaps no test.
			count.failed += module.errors().length
			for (const suite of module.children.allSuites()) count.failed += suite.errors().length
			for (const test of module.children.allTests()) {
				count[test.result().state] += 1
				if (test.diagnostic()?.flaky === true)
					repeated.push(`${module.relativeModuleId}: ${test.fullName}`)
			}
		}
		for (const name of repeated) console.log(`Passed only when repeated: ${name}`)
		const skipped = count.skipped + count.pending
		console.log(
			`Tests: ${count.passed} passed, ${count.failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`,
		)
	},
}

const WHOLE_SYSTEMS = ['test/faults/**/*.test.ts', 'test/processes/**/*.test.ts']

export default defineConfig({
	test: {
		pool: 'forks',
		maxWorkers: 2,
		// Real servers and processes share two cores: on a machine that stands still for a while a deadline may pass that has
		// nothing to do with what is tested. CI tries once more, and names the test.
		retry: process.env['CI'] === 'true' ? 1 : 0,
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
					exclude: ['test/unit/**', ...WHOLE_SYSTEMS],
					globalSetup: ['test/support/global-setup.ts'],
				},
			},
			{
				// Whole systems of many processes, killed and measured: after everything else.
				extends: true,
				test: {
					name: 'systems',
					include: WHOLE_SYSTEMS,
					// Files that belong to `npm run test:full` as a whole.
					exclude: process.env['FULL'] === '1' ? [] : ['test/**/*.full.test.ts'],
					globalSetup: ['test/support/global-setup.ts'],
					sequence: { groupOrder: 1 },
				},
			},
		],
	},
})
