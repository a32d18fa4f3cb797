/** The functions on Deno, as a process of one's own or on Deno Deploy. */
import { runServerProcess } from './server-process.js'
import { cutAfterGrace, hostBindings, urlOf } from './fetch-host.js'

/** What is used of it: https://docs.deno.com/api/deno/~/Deno.serve */
declare const Deno: {
	serve(
		options: { hostname: string; port: number; signal: AbortSignal; onListen(): void },
		handler: (
			request: Request,
			info: { readonly remoteAddr: { readonly hostname?: string } },
		) => Response | Promise<Response>,
	): { readonly addr: { readonly port: number }; shutdown(): Promise<void> }
}

await runServerProcess({
	command: 'deno run --allow-net --allow-env deno.mjs',
	// On Deno Deploy everybody can reach it, wherever it listens.
	env: process.env['DENO_DEPLOYMENT_ID'] === undefined ? process.env : { HOST: '0.0.0.0', ...process.env },
	listen({ app, host, port }) {
		const stopping = new AbortController()
		const cut = new AbortController()
		const server = Deno.serve(
			{ hostname: host, port, signal: cut.signal, onListen() {} },
			(request, { remoteAddr }) =>
				app.fetch(request, hostBindings(stopping.signal, remoteAddr.hostname)),
		)
		return {
			url: urlOf(host, server.addr.port),
			port: server.addr.port,
			stop() {
				stopping.abort()
				return cutAfterGrace(server.shutdown(), () => cut.abort())
			},
		}
	},
})
