import { build, type Metafile } from 'esbuild'
import { gzipSync } from 'node:zlib'
import { beforeAll, describe, expect, test } from 'vitest'
import { PROJECT_ROOT } from '../support/process.js'

/** Bundles as a deployment does, and tells what went in and what was left to the host. */
async function bundle(
	entry: string,
	conditions: string[],
): Promise<{ metafile: Metafile; external: string[]; gzipBytes: number }> {
	const { metafile, outputFiles } = await build({
		absWorkingDir: PROJECT_ROOT,
		entryPoints: [entry],
		bundle: true,
		write: false,
		metafile: true,
		minify: true,
		format: 'esm',
		platform: 'neutral',
		mainFields: ['module', 'main'],
		conditions,
		// What the host provides; anything else that cannot be bundled fails the build.
		external: ['cloudflare:sockets', 'node:*'],
		logLevel: 'silent',
	})
	const imports = Object.values(metafile.outputs).flatMap((output) => output.imports)
	return {
		metafile,
		external: [
			...new Set(imports.filter((imported) => imported.external === true).map(({ path }) => path)),
		].sort(),
		gzipBytes: outputFiles.reduce((total, file) => total + gzipSync(file.contents).byteLength, 0),
	}
}

/** Built-ins that `postgres` imports under the condition `workerd`; Cloudflare provides them all. */
const OF_POSTGRES = ['cloudflare:sockets', 'node:buffer', 'node:crypto', 'node:events', 'node:stream']

describe.each([
	['app.ts', 'functions/app.ts'],
	['index.ts', 'functions/index.ts'],
])('the bundle of functions/%s for an edge host', (_name, entry) => {
	let result: Awaited<ReturnType<typeof bundle>>
	beforeAll(async () => {
		result = await bundle(entry, ['workerd', 'worker', 'browser'])
	})

	test('holds no broker, no Redis, no log or metrics library and nothing of worker/', () => {
		const files = Object.keys(result.metafile.inputs)
		expect(files).toContain('functions/app.ts')
		expect(files.filter((file) => file.startsWith('worker/'))).toEqual([])
		expect(
			files.filter((file) =>
				/node_modules\/(amqplib|ioredis|pino|prom-client|@hono\/node-server|drizzle-kit)\//.test(
					file,
				),
			),
		).toEqual([])
	})

	test('imports no built-in of Node beyond those that postgres itself brings', () => {
		expect(result.external.filter((path) => !OF_POSTGRES.includes(path))).toEqual([])
		// Each of them comes from postgres, none from us or another package.
		for (const [file, input] of Object.entries(result.metafile.inputs)) {
			const builtIns = input.imports.filter((imported) => imported.external === true)
			if (builtIns.length > 0) expect(file).toMatch(/^node_modules\/postgres\//)
		}
	})

	test('is smaller than 1 MiB compressed', () => {
		console.log(`${entry}: ${Math.round(result.gzipBytes / 1024)} KiB gzipped`)
		expect(result.gzipBytes).toBeLessThan(1024 * 1024)
	})
})
