/** The client inside the runtimes that it is for, as a bundler makes it a part of a program there. */
import { writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { build } from 'esbuild'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createApp } from '../../functions/app.js'
import { type FunctionsServer, serveFunctions } from '../../functions/serve.js'
import { runtimes, textBinding, workerdConfiguration } from '../functions/hosts/hosts.js'
import { freshFolder } from '../support/cleanup.js'
import { startEngine, type TestEngine } from '../support/engine.js'
import { PROJECT_ROOT, spawnProgram } from '../support/process.js'
import type { Heard } from './program.js'

const KEY = 'client-0123456789abcdef'

const HEARD: Heard = {
	events: [
		'1 workflow:start',
		'2 node:start',
		'3 node:finish',
		'4 node:start',
		'5 node:finish',
		'6 workflow:finish',
	],
	status: 'completed',
	input: '€',
	output: 14,
	nodes: ['first', 'second'],
	error: 'NotFoundError',
}

let engine: TestEngine
let server: FunctionsServer
let folder: string

beforeAll(async () => {
	engine = await startEngine({
		workflows: {
			registry: {
				seven: async () => ({ output: 7 }),
				double: async ({ input }) => ({ output: Number(input) * 2 }),
			},
			blueprints: {
				doubled: {
					id: 'doubled',
					nodes: [
						{ id: 'first', uses: 'seven' },
						{ id: 'second', uses: 'double' },
					],
					edges: [{ source: 'first', target: 'second' }],
				},
			},
		},
	})
	const apiKeys = [{ name: 'client', secret: KEY, scopes: ['start', 'read'] as const }]
	server = await serveFunctions({
		app: createApp({ db: engine.database, apiKeys }),
		host: '127.0.0.1',
		port: 0,
	})
	folder = freshFolder('client')
})
afterAll(async () => {
	await server?.stop()
	await engine?.stop()
})

/** For any host: without modules of Node's. */
async function bundle(entry: string): Promise<string> {
	const outfile = join(folder, `${basename(entry, '.ts')}.mjs`)
	await build({
		absWorkingDir: PROJECT_ROOT,
		entryPoints: [`test/client/${entry}`],
		outfile,
		bundle: true,
		format: 'esm',
		platform: 'neutral',
		logLevel: 'silent',
	})
	return outfile
}

test.each([
	['Node', () => process.execPath, []],
	['Deno', runtimes.deno, ['run', '--no-lock', '--no-prompt', '--cached-only', '--allow-net']],
	['Bun', runtimes.bun, []],
] as const)('in %s', async (name, program, args) => {
	const running = spawnProgram({
		name,
		command: program(),
		args: [...args, await bundle('program.main.ts'), server.url, KEY],
		env: { DENO_DIR: freshFolder('deno'), DENO_NO_UPDATE_CHECK: '1' },
	})
	const said = await running.waitForLine('heard ', { deadlineMs: 25_000 })
	expect(JSON.parse(said.slice('heard '.length))).toEqual(HEARD)
	// Nothing of the client's keeps a program running.
	expect(await running.exited).toEqual({ code: 0, signal: null })
})

test('in a Cloudflare Worker', async () => {
	const worker = await bundle('program.worker.ts')
	const configuration = `${worker}.capnp`
	const bindings = { SERVER: server.url, KEY }
	await writeFile(
		configuration,
		await workerdConfiguration(worker, Object.entries(bindings).map(textBinding)),
	)
	const running = spawnProgram({
		name: 'workerd',
		command: runtimes.workerd(),
		args: ['serve', '--control-fd=1', configuration],
	})
	try {
		const { port } = JSON.parse(await running.waitForLine('"listen"')) as { port: number }
		const response = await fetch(`http://127.0.0.1:${port}/`, { signal: AbortSignal.timeout(25_000) })
		expect([response.status, await response.json()]).toEqual([200, HEARD])
	} finally {
		await running.kill()
	}
})
