/**
 * A DBOS application, as its documentation shows one: an HTTP server whose handlers start workflows in its own process.
 * That is DBOS's shortest way, without a queue in between. Its fan-out is steps side by side in one workflow; child
 * workflows on a queue took longer.
 */
import { DBOS } from '@dbos-inc/dbos-sdk'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

const step = async (): Promise<number> => 1

const chain = DBOS.registerWorkflow(
	async (length: number): Promise<void> => {
		for (let i = 0; i < length; i++) await DBOS.runStep(step, { name: `n${i}` })
	},
	{ name: 'chain' },
)

const fanOut = DBOS.registerWorkflow(
	async (width: number): Promise<void> => {
		await DBOS.runStep(step, { name: 'start' })
		await Promise.all(Array.from({ length: width }, (_, i) => DBOS.runStep(step, { name: `w${i}` })))
		await DBOS.runStep(step, { name: 'end' })
	},
	{ name: 'fan-out' },
)

DBOS.setConfig({
	name: 'bench',
	systemDatabaseUrl: process.env['DATABASE_URL'] ?? '',
	systemDatabasePoolSize: Number(process.env['POOL_SIZE']),
	logLevel: 'error',
})
await DBOS.launch()

const server = createServer((request, response) => {
	const { pathname, searchParams } = new URL(request.url ?? '/', 'http://localhost')
	const workflow = pathname === '/chain' ? chain : fanOut
	const size = Number(searchParams.get('size'))
	const starts = Array.from({ length: Number(searchParams.get('count')) }, () =>
		DBOS.startWorkflow(workflow)(size),
	)
	Promise.all(starts).then(
		() => response.end(),
		(error: unknown) => {
			response.statusCode = 500
			response.end(String(error))
		},
	)
})
server.listen(0, '127.0.0.1', () => console.log(`Listening on ${(server.address() as AddressInfo).port}`))
process.on('SIGTERM', () => void DBOS.shutdown().finally(() => process.exit(0)))
