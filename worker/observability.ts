/** `/metrics`, `/healthz` and `/readyz` of the long-lived processes, on a port of their own. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { collectDefaultMetrics, Counter, Gauge, Registry } from 'prom-client'
import { StartError } from './process.js'

export interface ObservabilityOptions {
	/** 0: no server. */
	readonly port: number
	readonly host: string
	/** Label of every metric. */
	readonly process: string
	/** Current values by metric name; names end in `_total` for those that only rise. */
	readonly metrics: () => Readonly<Record<string, number>>
	/** Whether the process can do its work right now. */
	readonly isReady: () => boolean | Promise<boolean>
}

export interface Observability {
	/** The port that was taken; undefined without a server. */
	readonly port: number | undefined
	close(): Promise<void>
}

/** Serves until closed. @throws StartError if the port is taken */
export async function serveObservability(options: ObservabilityOptions): Promise<Observability> {
	if (options.port === 0) return { port: undefined, async close() {} }
	const registry = new Registry()
	registry.setDefaultLabels({ process: options.process })
	collectDefaultMetrics({ register: registry })
	for (const name of Object.keys(options.metrics())) {
		const description = {
			name: `flowcraft_${name}`,
			help: name.replaceAll('_', ' '),
			registers: [registry],
		}
		const current = (): number => options.metrics()[name] ?? 0
		if (name.endsWith('_total')) {
			new Counter({
				...description,
				collect() {
					this.reset()
					this.inc(current())
				},
			})
		} else {
			new Gauge({
				...description,
				collect() {
					this.set(current())
				},
			})
		}
	}
	const server = createServer((request, response) => {
		const answer = async (): Promise<void> => {
			switch (request.url?.split('?')[0]) {
				case '/metrics':
					response.setHeader('content-type', registry.contentType)
					response.end(await registry.metrics())
					return
				case '/healthz':
					response.end('ok\n')
					return
				case '/readyz': {
					const ready = await options.isReady()
					response.statusCode = ready ? 200 : 503
					response.end(ready ? 'ready\n' : 'not ready\n')
					return
				}
				default:
					response.statusCode = 404
					response.end('not found\n')
			}
		}
		answer().catch(() => {
			response.statusCode = 500
			response.end()
		})
	})
	await new Promise<void>((resolve, reject) => {
		server.once('error', (error) => reject(takenPort(error)))
		server.listen(options.port, options.host, resolve)
	})
	return {
		port: (server.address() as AddressInfo).port,
		close: () =>
			new Promise((resolve) => {
				server.close(() => resolve())
				server.closeAllConnections()
			}),
	}
}

/** Under the name of its own variable: most processes listen on another port as well. */
function takenPort(error: Error): Error {
	if (!('code' in error) || error.code !== 'EADDRINUSE') return error
	return new StartError(
		`${error.message}\nAnother program listens there already. Stop it, or set METRICS_PORT to another number.`,
	)
}
