/** Serving an app on a port with Node, until it is told to stop. */
import { createAdaptorServer } from '@hono/node-server'
import type { App, HostBindings } from './endpoint.js'
import { GRACE_MS, urlOf } from './hosts/fetch-host.js'

export interface ServeOptions {
	readonly app: App
	readonly host: string
	/** 0: any free one. */
	readonly port: number
	/** After so long, `stop` cuts what has not been answered, in ms. Default 10000. */
	readonly graceMs?: number
}

export interface FunctionsServer {
	/** `http://127.0.0.1:3000` */
	readonly url: string
	readonly port: number
	/**
	 * Accepts no more connections, lets waiting requests answer with what there is, and resolves when all requests
	 * have been answered. Idempotent.
	 */
	stop(): Promise<void>
}

/** Longer than load balancers keep idle connections (60 s is usual): they must not send into one that just closed. */
const KEEP_ALIVE_MS = 65_000

/**
 * Resolves when the server listens.
 * @throws what Node says (`EADDRINUSE`, `EACCES`, …)
 */
export async function serveFunctions({
	app,
	host,
	port,
	graceMs = GRACE_MS,
}: ServeOptions): Promise<FunctionsServer> {
	const stopping = new AbortController()
	const server = createAdaptorServer({
		fetch: (request, env) =>
			app.fetch(request, { ...env, stopping: stopping.signal } satisfies HostBindings),
		serverOptions: { keepAliveTimeout: KEEP_ALIVE_MS },
	})
	await new Promise<void>((resolve, reject) => {
		server.once('error', reject)
		server.listen(port, host, () => {
			server.off('error', reject)
			resolve()
		})
	})
	const address = server.address()
	if (address === null || typeof address === 'string') throw new Error('The server has no port')

	let stopped: Promise<void> | undefined
	const stop = async (): Promise<void> => {
		stopping.abort()
		const closed = new Promise<void>((resolve) => server.close(() => resolve()))
		if (!('closeIdleConnections' in server)) return closed
		// A connection whose request has just been answered is idle, and would be kept for the client's next one.
		const idle = setInterval(() => server.closeIdleConnections(), 20)
		const late = setTimeout(() => server.closeAllConnections(), graceMs)
		await closed
		clearInterval(idle)
		clearTimeout(late)
	}
	return {
		url: urlOf(host, address.port),
		port: address.port,
		stop: () => (stopped ??= stop()),
	}
}
