/**
 * Where test files, each in a process of its own, ask for the shared servers: vitest's main process answers over
 * HTTP, as soon as the server that was asked for is ready.
 */
import { createServer, get } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { SharedPostgres, SharedServer, Suite } from './suite.js'

export interface Desk {
	readonly url: string
	close(): Promise<void>
}

export async function openDesk(suite: Suite): Promise<Desk> {
	const shelves: Readonly<Record<string, () => Promise<object>>> = {
		'/postgres': () => suite.postgres(),
		'/rabbitmq': () => suite.rabbitMq(),
		'/redis': () => suite.redis(),
	}
	const server = createServer((request, response) => {
		const ask = shelves[request.url ?? '']
		void (async () => {
			try {
				if (ask === undefined) throw new Error(`There is no ${request.url}.`)
				response.end(JSON.stringify(await ask()))
			} catch (error) {
				response.writeHead(500).end(error instanceof Error ? error.message : String(error))
			}
		})()
	})
	await new Promise<void>((resolve) => server.listen({ port: 0, host: '127.0.0.1' }, resolve))
	server.unref()
	return {
		url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
		close: () =>
			new Promise((resolve) => {
				server.close(() => resolve())
				server.closeAllConnections()
			}),
	}
}

/** What a test file sees of the suite. */
export function atDesk(deskUrl: string): Pick<Suite, 'postgres' | 'rabbitMq' | 'redis'> {
	return {
		postgres: () => ask<SharedPostgres>(`${deskUrl}/postgres`),
		rabbitMq: () => ask<SharedServer>(`${deskUrl}/rabbitmq`),
		redis: () => ask<SharedServer>(`${deskUrl}/redis`),
	}
}

/** Not `fetch`, which gives up after five minutes: a server may have to be downloaded first. */
function ask<T>(url: string): Promise<T> {
	return new Promise((resolve, reject) => {
		const request = get(url, { agent: false }, (response) => {
			let body = ''
			response.setEncoding('utf8')
			response.on('data', (chunk: string) => (body += chunk))
			response.on('error', reject)
			response.on('end', () => {
				if (response.statusCode === 200) resolve(JSON.parse(body) as T)
				else reject(new Error(body))
			})
		})
		request.on('error', reject)
	})
}
