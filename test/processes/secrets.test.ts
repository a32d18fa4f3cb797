/** Functions, relay and worker are given secrets, and everything goes wrong: none of it stands in what they print. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type RunningProcess, spawnProcess } from '../support/process.js'
import { freshDatabase, type FreshDatabase, freshQueueName, rabbitMq } from '../support/services/index.js'
import { startProxy, type TcpProxy } from '../support/tcp-proxy.js'
import { waitFor } from '../support/wait-for.js'

const DATABASE_PASSWORD = 'database-p%40ssword-1'
const RABBITMQ_PASSWORD = 'rabbitmq-password-1'
const REDIS_PASSWORD = 'redis-password-1'
const API_KEY = 'api-key-0123456789abcdef'
const WRONG_KEY = 'another-key-0123456789ab'
const WEBHOOK_SECRET = 'webhook-secret-0123456789abcdef0123'
const WEBHOOK_TOKEN = 'Tm90LWEtcmVhbC10b2tlbi1idXQtYXMtbG9uZy1hcy0'
const SECRETS = [
	DATABASE_PASSWORD,
	decodeURIComponent(DATABASE_PASSWORD),
	RABBITMQ_PASSWORD,
	REDIS_PASSWORD,
	API_KEY,
	WRONG_KEY,
	WEBHOOK_SECRET,
	WEBHOOK_TOKEN,
]
/** Several processes start at once, on a machine that may be busy. */
const DEADLINE_MS = 90_000

let fresh: FreshDatabase
let proxy: TcpProxy
const running: RunningProcess[] = []
const spawn = async (options: Parameters<typeof spawnProcess>[0]): Promise<RunningProcess> => {
	const spawned = await spawnProcess({ deadlineMs: DEADLINE_MS, ...options })
	running.push(spawned)
	return spawned
}

function withPassword(url: string, password: string): string {
	const { protocol, username, host, pathname } = new URL(url)
	return `${protocol}//${username}:${password}@${host}${pathname}`
}

beforeAll(async () => {
	fresh = await freshDatabase()
	proxy = await startProxy(fresh.url)
})
afterAll(async () => {
	await Promise.all(running.map((each) => each.kill()))
	await proxy?.close()
	await fresh?.drop()
})

test(
	'no line of functions, relay and worker has a password, a key or a token, whatever goes wrong',
	async () => {
		const env = {
			DATABASE_URL: withPassword(proxy.url, DATABASE_PASSWORD),
			// Both refuse: one does not know the password, nobody listens at the other.
			RABBITMQ_URL: withPassword((await rabbitMq()).url, RABBITMQ_PASSWORD),
			REDIS_URL: `redis://app:${REDIS_PASSWORD}@127.0.0.1:1`,
			QUEUE_NAME: freshQueueName(),
			LOG_LEVEL: 'trace',
			API_KEYS: `ops:${API_KEY}`,
			WEBHOOK_SECRET,
			DATABASE_DEADLINE_MS: '500',
			PORT: '0',
		}
		const [functions, relay, worker, broken] = await Promise.all([
			spawn({ entry: 'functions/node.ts', env, readyLine: /"url"/ }),
			spawn({ entry: 'worker/relay.main.ts', env, readyLine: /RabbitMQ cannot be reached/ }),
			spawn({ entry: 'worker/worker.main.ts', env, readyLine: /RabbitMQ cannot be reached/ }),
			spawn({
				entry: 'worker/relay.main.ts',
				env: { ...env, DATABASE_URL: `postgres://app:${DATABASE_PASSWORD}@db:no-port/x` },
			}),
		])
		await broken.exited
		await relay.waitForLine(/Redis cannot be reached/, { deadlineMs: DEADLINE_MS })

		const url = /"url":"([^"]+)"/.exec(functions.lines.join('\n'))?.[1] ?? ''
		const ask = async (path: string, init: RequestInit = {}): Promise<number> =>
			(await fetch(`${url}${path}`, init)).status
		const key = { authorization: `Bearer ${API_KEY}` }
		expect(await ask('/runs', { headers: key })).toBe(200)
		expect(await ask('/runs', { headers: { 'x-api-key': WRONG_KEY } })).toBe(401)
		expect(await ask(`/webhooks/${WEBHOOK_TOKEN}`, { method: 'POST', body: 'x' })).toBe(404)

		// Nobody can reach Postgres any more, and each says so.
		proxy.refuse()
		proxy.cut()
		await waitFor('the outage', async () => (await ask('/runs', { headers: key })) === 503)
		await waitFor(
			'the outage at a webhook',
			async () => (await ask(`/webhooks/${WEBHOOK_TOKEN}`, { method: 'POST', body: 'x' })) === 503,
		)
		await functions.waitForLine(/could not be served/, { deadlineMs: DEADLINE_MS })
		await relay.waitForLine(/A sweep failed/, { deadlineMs: DEADLINE_MS })

		const printed = [functions, relay, worker, broken].map(({ lines }) => lines.join('\n'))
		for (const text of printed) {
			expect(text.length).toBeGreaterThan(20)
			for (const secret of SECRETS) expect(text).not.toContain(secret)
		}
		// It was there to be told: the path of a webhook is logged up to its token.
		expect(printed[0]).toContain('/webhooks/…')
	},
	4 * DEADLINE_MS,
)
