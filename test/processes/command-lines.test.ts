/** What the programs say, and what they end with, when they are called or set up wrongly. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { compiledFile } from '../support/compiled.js'
import { PROJECT_ROOT, type RunningProcess, spawnProcess, spawnProgram } from '../support/process.js'
import { freshDatabase, type FreshDatabase, freshFolder } from '../support/services/index.js'
import { waitFor } from '../support/wait-for.js'

let fresh: FreshDatabase
beforeAll(async () => {
	fresh = await freshDatabase()
})
afterAll(() => fresh.drop())

/** Reached by nobody: what is tested is told before, or without it. */
const NO_BROKER = 'amqp://127.0.0.1:1'

async function ended(running: RunningProcess): Promise<{ code: number | null; said: string }> {
	const { code } = await running.exited
	return { code, said: running.lines.join('\n') }
}

const script = (name: string, ...args: readonly string[]) =>
	ended(
		spawnProgram({
			name,
			command: 'npm',
			args: ['run', '--silent', name, '--', ...args],
			env: { DATABASE_URL: 'postgres://127.0.0.1:1/none' },
		}),
	)

/** What the generators would write. */
const generated = (): string[] => [
	readFileSync(join(PROJECT_ROOT, 'functions', 'openapi.json'), 'utf8'),
	...readdirSync(join(PROJECT_ROOT, 'src', 'db', 'migrations')),
]

describe.each([
	'start',
	'start:functions',
	'start:relay',
	'start:worker',
	'db:migrate',
	'db:generate',
	'openapi:generate',
])('npm run %s', (name) => {
	test('refuses an argument that it does not know, by its name', async () => {
		const before = generated()
		const { code, said } = await script(name, '--dry-run')
		expect(said).toContain('--dry-run')
		expect(said).toContain('--help')
		expect(code).toBe(64)
		expect(generated()).toEqual(before)
	})

	test('answers --help, and does nothing', async () => {
		const before = generated()
		const { code, said } = await script(name, '--help')
		expect(said).toContain('npm ')
		expect(code).toBe(0)
		expect(generated()).toEqual(before)
	})
})

describe('a second signal ends a process at once, and its log says so:', () => {
	async function signalTwice(running: RunningProcess): Promise<void> {
		// Of two kinds: one that is pending already would not come twice.
		process.kill(running.pid, 'SIGTERM')
		process.kill(running.pid, 'SIGINT')
		const { code, said } = await ended(running)
		expect(said).toMatch(/"level":40,.*"msg":"Ended by a second signal, before it had drained"/)
		expect(code).not.toBe(0)
	}

	test('a relay', async () => {
		const running = await spawnProcess({
			entry: 'worker/relay.main.ts',
			env: { DATABASE_URL: fresh.url, RABBITMQ_URL: NO_BROKER, LOG_LEVEL: 'debug' },
			readyLine: 'The relay runs',
		})
		// It listens for signals in the turn after that line.
		const { length } = running.lines
		await waitFor('another turn of its loop', () => running.lines.length > length)
		await signalTwice(running)
	})

	test('the functions', async () => {
		const running = await spawnProcess({
			entry: 'functions/node.ts',
			env: { DATABASE_URL: fresh.url, PORT: '0' },
			readyLine: '"Listening"',
		})
		const { url } = JSON.parse(running.lines.at(-1) ?? '') as { url: string }
		expect((await fetch(`${url}/healthz`)).status).toBe(200)
		await signalTwice(running)
	})
})

test('a taken METRICS_PORT is told under its own name', async () => {
	const other = createServer()
	await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve))
	try {
		const { port } = other.address() as AddressInfo
		const env = { DATABASE_URL: fresh.url, RABBITMQ_URL: NO_BROKER, METRICS_PORT: String(port) }
		const { code, said } = await ended(await spawnProcess({ entry: 'worker/relay.main.ts', env }))
		expect(said).toContain('set METRICS_PORT to another number')
		expect(code).toBe(1)
	} finally {
		other.close()
	}
})

describe('a faulty environment is told by its variable, without a stack, with exit code 2:', () => {
	const env = { DATABASE_URL: 'postgres://127.0.0.1:1/none', RABBITMQ_URL: NO_BROKER }

	test.each([
		['worker/worker.main.ts', { ...env, MODERATION_LLM_URL: 'foo' }, 'MODERATION_LLM_URL must be'],
		['worker/db/migrate.main.ts', { DATABASE_URL: 'foo' }, 'DATABASE_URL must begin with'],
		['worker/db/migrate.main.ts', {}, 'DATABASE_URL is not set'],
	])('%s %j', async (entry, given, says) => {
		const { code, said } = await ended(await spawnProcess({ entry, env: given }))
		expect(said).toContain(`\n  ${says}`)
		expect(said).not.toContain('    at ')
		expect(code).toBe(2)
	})

	test('a workflows module in TypeScript, which plain Node does not load', async () => {
		const file = join(freshFolder('workflows'), 'mine.ts')
		writeFileSync(file, 'enum Kind { One }\nexport const blueprints = { [Kind.One]: 5 }')
		const running = spawnProgram({
			name: 'worker',
			command: process.execPath,
			args: [await compiledFile('worker/worker.main.ts')],
			env: { ...env, WORKFLOWS: file },
		})
		const { code, said } = await ended(running)
		expect(said).toContain('node --import tsx')
		expect(code).toBe(2)
	})
})
