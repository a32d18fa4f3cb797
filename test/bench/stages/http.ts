import { spawnProcess } from '../../support/process.js'
import { postRate } from '../http-load.js'
import type { Stage } from '../session.js'
import { blueprints } from '../workflows.js'

const CONNECTIONS = 32
const WARM_UP_SECONDS = 1

/** Starts over HTTP, and a bare handler with an insert of three rows, in turn; nobody works on the runs. */
export const http: Stage = {
	name: 'http',
	summary: 'POST /runs beside a bare Hono handler with one insert of three rows',
	async run(session) {
		await session.quiet()
		const { lab, results, sizes } = session
		const [ours, bare] = await Promise.all([
			lab.createDatabase(),
			lab.createDatabase({ migrated: false }),
		])
		const functions = await spawnProcess({
			entry: 'functions/node.ts',
			env: { DATABASE_URL: ours.url, PORT: '0', LOG_LEVEL: 'info' },
			readyLine: /Listening/,
		})
		const handler = await spawnProcess({
			entry: 'test/bench/floors/hono.main.ts',
			env: { DATABASE_URL: bare.url },
			readyLine: /Listening/,
		})
		try {
			const functionsPort = Number(/127\.0\.0\.1:(\d+)/.exec(functions.tail())?.[1])
			const handlerPort = Number(/Listening on (\d+)/.exec(handler.tail())?.[1])
			const registered = await fetch(`http://127.0.0.1:${functionsPort}/blueprints/chain-1`, {
				method: 'PUT',
				headers: { 'content-type': 'application/json' },
				body: JSON.stringify(blueprints['chain-1']),
			})
			if (!registered.ok) throw new Error(`PUT /blueprints: ${await registered.text()}`)
			const body = JSON.stringify({ blueprint: 'chain-1', input: { n: 1 } })
			const rate = (port: number, path: string, seconds: number): Promise<number> =>
				postRate({ port, path, body, connections: CONNECTIONS, seconds })
			await rate(functionsPort, '/runs', WARM_UP_SECONDS)
			await rate(handlerPort, '/rows', WARM_UP_SECONDS)
			results.add('POST /runs', await rate(functionsPort, '/runs', sizes.httpSeconds), 'requests/s')
			results.add('bare Hono insert', await rate(handlerPort, '/rows', sizes.httpSeconds), 'requests/s')
		} finally {
			await Promise.all([functions.kill(), handler.kill()])
			await Promise.all([ours.drop(), bare.drop()])
		}
	},
}
