/** The functions as a process of their own that listens on a port, on Node, Deno or Bun, until it is told to stop. */
import { answerArguments } from '../../src/arguments.js'
import { EnvironmentError } from '../../src/environment.js'
import { createRedactor, secretsOf } from '../../src/redaction.js'
import { createApp } from '../app.js'
import { readServerConfig } from '../config.js'
import { isMigrated } from '../../src/db/is-migrated.js'
import { refusalOf } from '../../src/db/refusal.js'
import { scriptEnd } from '../../src/npm-script.js'
import type { App } from '../endpoint.js'
import type { FunctionsServer } from '../serve.js'
import { hostLogger, openPool } from './setup.js'

export interface ServerHost {
	/** What a person types to start it. */
	readonly command: string
	/** The environment. Default: that of the process. */
	readonly env?: Readonly<Record<string, string | undefined>>
	/** In each line of its log, beside the process's id. */
	readonly hostname?: string
	/** Begins to listen. */
	listen(options: {
		readonly app: App
		readonly host: string
		readonly port: number
	}): FunctionsServer | Promise<FunctionsServer>
}

const help = (
	command: string,
): string => `Serves the HTTP API. Needs Postgres, migrated with npm run db:migrate, and nothing else.

  ${command}

Environment:
  DATABASE_URL          postgres://user:password@host:5432/database (required)
  HOST, PORT            where to listen (127.0.0.1, 3000); beyond this machine only with API_KEYS or JWT_JWKS_URL
  API_KEYS              name:secret[:read+start+operate+admin], separated by commas; without any, all is open
  JWT_JWKS_URL, JWT_ISSUER, JWT_AUDIENCE
                        tokens of an identity provider, beside keys or instead of them
  RATE_LIMIT_PER_CALLER, RATE_LIMIT_PER_ADDRESS
                        such as 600/m; off without
  CORS_ORIGINS          web pages that may call from browsers; none without
  PUBLIC_URL            where clients reach it, for /openapi.json
  STREAM_MS             how long one GET /runs/:id/stream is kept open (300000)
  EVENT_KEEP_MS         how long events are kept that nobody waits for yet (3600000)
  BODY_LIMIT_BYTES      larger bodies are refused (1048576)
  DATABASE_POOL_SIZE    connections at most (10)
  DATABASE_DEADLINE_MS  a statement that takes longer is answered with 503 (10000)
  DATABASE_QUEUE_SIZE   statements that wait for a connection at most; then 503 (1000)
  DATABASE_PREPARE      false behind a pooler in transaction mode (true)
  REDACT_KEYS           names whose values stand in no log and no history (password, token and the like)
  LOG_LEVEL             trace, debug, info, warn, error, fatal or silent (info)

.env.example describes these and the others. Stops on SIGTERM or SIGINT: answers what it has begun, then ends. /docs describes the API.`

const EXIT_FAILURE = 1
const EXIT_CONFIG = 2
const EXIT_INTERRUPTED = 130

/** Reads the arguments and the environment, serves, and ends the process when it is told to, or cannot begin. */
export async function runServerProcess(serverHost: ServerHost): Promise<void> {
	answerArguments(process, help(serverHost.command))
	try {
		await serve(serverHost)
	} catch (error) {
		fail(error)
	}
}

async function serve({ env = process.env, hostname, listen }: ServerHost): Promise<void> {
	const scriptHasEnded = scriptEnd(process)
	const config = readServerConfig(env)
	const { pid } = process
	const logger = hostLogger(config, env, { pid, ...(hostname === undefined ? {} : { hostname }) })
	const db = openPool(config)
	const server = await listen({
		app: createApp({ ...config, db, logger }),
		host: config.host,
		port: config.port,
	})
	logger.info('Listening', { url: server.url })
	isMigrated(db.sql).then(
		(migrated) => {
			if (!migrated)
				logger.error('The database has no tables of flowcraft-outbox yet: run npm run db:migrate')
		},
		(error: unknown) => {
			const refusal = refusalOf(error)
			// Otherwise not there yet, or gone again: requests tell.
			if (refusal !== undefined) logger.error(refusal)
		},
	)

	const stop = async (signal: string): Promise<void> => {
		logger.info('Stopping', { signal })
		await server.stop()
		await db.close()
		logger.info('Stopped')
		// A listener for signals keeps Deno running.
		process.exit()
	}
	let stopping = false
	for (const signal of ['SIGTERM', 'SIGINT'] as const) {
		process.on(signal, () => {
			// Whoever asks twice does not want to wait.
			if (stopping) {
				logger.warn('Ended by a second signal, before it had drained', { signal })
				process.exit(EXIT_INTERRUPTED)
			}
			stopping = true
			stop(signal).catch(fail)
		})
	}
	void scriptHasEnded.then(() => {
		if (stopping) return
		stopping = true
		stop('the end of its npm script').catch(fail)
	})
}

function fail(error: unknown): void {
	if (error instanceof EnvironmentError) {
		console.error(`${error.message}\n\nSee .env.example, or --help.`)
		process.exit(EXIT_CONFIG)
	}
	console.error(createRedactor({ secrets: secretsOf(process.env) }).text(explain(error)))
	process.exit(EXIT_FAILURE)
}

function explain(error: unknown): string {
	if (!(error instanceof Error)) return String(error)
	switch ('code' in error ? error.code : undefined) {
		case 'EADDRINUSE':
			return `${error.message}\nAnother program listens there already. Stop it, or set PORT to another number.`
		case 'EACCES':
			return `${error.message}\nThis user may not listen there. Set PORT to a number above 1023.`
		case 'EADDRNOTAVAIL':
		case 'ENOTFOUND':
			return `${error.message}\nHOST is not an address of this machine.`
		default:
			return error.message
	}
}
