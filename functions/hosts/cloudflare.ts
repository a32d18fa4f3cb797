/**
 * The functions on Cloudflare Workers. A connection there belongs to the request that opened it, so each request has a
 * client of its own, which is closed behind the answer. Hyperdrive, if bound, keeps the real connections open.
 */
import { createDatabase, type Database } from '../../src/db/client.js'
import { type Environment, EnvironmentError } from '../../src/environment.js'
import { createApp } from '../app.js'
import { type AppConfig, readHostConfig } from '../config.js'
import type { App } from '../endpoint.js'
import { HttpProblem, problemResponse } from '../problem.js'
import { connectionOptions, hostLogger } from './setup.js'

/** The variables of the environment and, if Postgres is reached through Hyperdrive, its binding. */
export interface Bindings {
	readonly HYPERDRIVE?: { readonly connectionString: string }
	readonly [variable: string]: unknown
}

interface ExecutionContext {
	waitUntil(work: Promise<unknown>): void
	passThroughOnException(): void
	readonly props: unknown
}

let app: App | undefined

export default {
	fetch(request: Request, bindings: Bindings, context: ExecutionContext): Response | Promise<Response> {
		try {
			app ??= createWorkerApp(bindings)
		} catch (error) {
			if (!(error instanceof EnvironmentError)) throw error
			console.error(error.message)
			return problemResponse(
				new HttpProblem('internal', 'The environment of this Worker is invalid; its log says why.'),
			)
		}
		return app.fetch(request, bindings, context)
	},
}

function createWorkerApp(bindings: Bindings): App {
	const env = environmentOf(bindings)
	const config = readHostConfig(env, 1)
	return createApp({
		...config,
		// A request whose client goes away ends here without a word: a count would only ever rise. Cloudflare bounds them.
		maxRequests: Number.POSITIVE_INFINITY,
		db: (requestBindings) => openForRequest(config, requestBindings as Bindings),
		logger: hostLogger(config, env),
	})
}

/** Whether the database answers depends on the binding of the request, how it is asked on the configuration. */
function openForRequest(config: AppConfig, { HYPERDRIVE: hyperdrive }: Bindings): Database {
	const options = { ...connectionOptions(config), max: 1 }
	if (hyperdrive === undefined) return createDatabase(config.databaseUrl, options)
	// A pooler: it knows prepared statements, but its connections have no settings of ours.
	return createDatabase(hyperdrive.connectionString, { ...options, statementTimeoutMs: 0 })
}

/** The variables among the bindings, which may be anything. */
function environmentOf({ HYPERDRIVE: hyperdrive, ...bindings }: Bindings): Environment {
	const variables = Object.entries(bindings).filter(
		(binding): binding is [string, string] => typeof binding[1] === 'string',
	)
	return {
		...Object.fromEntries(variables),
		...(hyperdrive === undefined ? {} : { DATABASE_URL: hyperdrive.connectionString }),
	}
}
