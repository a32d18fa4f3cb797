/** The functions on Bun. */
import { runServerProcess } from './server-process.js'
import { cutAfterGrace, hostBindings, urlOf } from './fetch-host.js'

/** What is used of it: https://bun.com/docs/runtime/http/server */
declare const Bun: {
	serve(options: {
		hostname: string
		port: number
		/** In seconds, 255 at most. */
		idleTimeout: number
		fetch(
			request: Request,
			server: { requestIP(request: Request): { readonly address: string } | null },
		): Response | Promise<Response>
	}): { readonly port: number; stop(closeActiveConnections?: boolean): Promise<void> }
}

/** A request may wait for 60 s without a byte on its connection; Bun's own 10 s would cut it. */
const IDLE_TIMEOUT_S = 120

await runServerProcess({
	command: 'bun functions/hosts/bun.ts',
	listen({ app, host, port }) {
		const stopping = new AbortController()
		const server = Bun.serve({
			hostname: host,
			port,
			idleTimeout: IDLE_TIMEOUT_S,
			fetch: (request, server) =>
				app.fetch(request, hostBindings(stopping.signal, server.requestIP(request)?.address)),
		})
		return {
			url: urlOf(host, server.port),
			port: server.port,
			stop() {
				stopping.abort()
				return cutAfterGrace(server.stop(), () => void server.stop(true))
			},
		}
	},
})
