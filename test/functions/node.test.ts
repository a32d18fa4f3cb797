import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { hostname } from 'node:os'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type RunningProcess, spawnProcess } from '../support/process.js'
import { freshDatabase, type FreshDatabase } from '../support/services/index.js'
import { IDLE_BLUEPRINT } from './api.js'

const ENTRY = 'functions/node.ts'

let fresh: FreshDatabase
beforeAll(async () => {
	fresh = await freshDatabase()
})
afterAll(() => fresh.drop())

async function startServer(
	env: Record<string, string> = {},
): Promise<{ url: string; server: RunningProcess }> {
	const server = await spawnProcess({
		entry: ENTRY,
		env: { DATABASE_URL: fresh.url, PORT: '0', ...env },
		readyLine: '"Listening"',
	})
	const line = server.lines.find((each) => each.includes('"Listening"')) ?? ''
	return { url: JSON.parse(line).url, server }
}

const send = (url: string, path: string, method = 'GET', body?: unknown): Promise<Response> =>
	fetch(`${url}${path}`, {
		method,
		...(body === undefined
			? {}
			: { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }),
	})

async function startedRun(url: string): Promise<string> {
	await send(url, '/blueprints/idle', 'PUT', IDLE_BLUEPRINT)
	const started = (await (await send(url, '/runs', 'POST', { blueprint: 'idle' })).json()) as {
		runId: string
	}
	return started.runId
}

test('serves the API on loopback, and stops in order on SIGTERM', async () => {
	const { url, server } = await startServer()
	expect(url).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/)
	// As the lines of relays and workers have it.
	const listening = JSON.parse(server.lines.find((line) => line.includes('"Listening"')) ?? '') as object
	expect(listening).toMatchObject({ pid: server.pid, hostname: hostname(), name: 'functions' })
	expect((await send(url, '/readyz')).status).toBe(200)
	const runId = await startedRun(url)
	expect((await send(url, `/runs/${runId}`)).status).toBe(200)
	expect(
		(await send(url, '/runs', 'POST', { blueprint: 'idle', input: { text: 'x'.repeat(3_000_000) } }))
			.status,
	).toBe(413)
	const exit = await server.stop()
	expect(exit).toEqual({ code: 0, signal: null })
	expect(server.lines.at(-1)).toContain('"Stopped"')
})

test('on SIGTERM answers those who wait, early, with the run as it is', async () => {
	const { url, server } = await startServer()
	const runId = await startedRun(url)
	const waiting = Array.from({ length: 5 }, () => send(url, `/runs/${runId}?wait=60s`))
	await delay(300)
	const stoppedAt = performance.now()
	const exit = await server.stop({ deadlineMs: 8000 })
	expect(exit.code).toBe(0)
	// Well before the grace period ends, and although the clients keep their connections alive.
	expect(performance.now() - stoppedAt).toBeLessThan(4000)
	for (const response of await Promise.all(waiting)) {
		expect(response.status).toBe(200)
		expect(await response.json()).toMatchObject({ runId, status: 'running' })
	}
})

test('stops although Postgres has gone', async () => {
	const { url, server } = await startServer({
		DATABASE_URL: 'postgres://127.0.0.1:1/none',
		DATABASE_DEADLINE_MS: '500',
	})
	expect((await send(url, '/readyz')).status).toBe(503)
	expect((await send(url, '/healthz')).status).toBe(200)
	expect((await server.stop()).code).toBe(0)
})

async function outcome(
	env: Record<string, string | undefined>,
	args: readonly string[] = [],
): Promise<{ code: number | null; output: string }> {
	const server = await spawnProcess({ entry: ENTRY, env, args })
	const { code } = await server.exited
	return { code, output: server.lines.join('\n') }
}

test('tells everything that is wrong with its environment at once, and which variable it is', async () => {
	const { code, output } = await outcome({ PORT: 'http', HOST: '0.0.0.0', LOG_LEVEL: 'loud' })
	expect(code).toBe(2)
	for (const variable of ['DATABASE_URL', 'PORT', 'API_KEYS', 'LOG_LEVEL'])
		expect(output).toContain(`  ${variable} `)
	expect(output).not.toContain('    at ')
})

test('refuses to be reachable from elsewhere without API keys', async () => {
	const { code, output } = await outcome({ DATABASE_URL: fresh.url, HOST: '0.0.0.0', PORT: '0' })
	expect(code).toBe(2)
	expect(output).toContain('API_KEYS')
})

test('says what to do when its port is taken', async () => {
	const other: Server = createServer()
	await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve))
	try {
		const { port } = other.address() as AddressInfo
		const { code, output } = await outcome({ DATABASE_URL: fresh.url, PORT: String(port) })
		expect(code).toBe(1)
		expect(output).toContain('EADDRINUSE')
		expect(output).toContain('PORT')
		expect(output).not.toContain('    at ')
	} finally {
		other.close()
	}
})

test('explains itself with --help, without any environment', async () => {
	const { code, output } = await outcome({}, ['--help'])
	expect(code).toBe(0)
	for (const variable of ['DATABASE_URL', 'HOST', 'PORT', 'API_KEYS', 'BODY_LIMIT_BYTES', 'LOG_LEVEL'])
		expect(output).toContain(variable)
	expect((await outcome({}, ['--prot', '1'])).code).toBe(64)
})
