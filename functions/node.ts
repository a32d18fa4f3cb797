/** `npm run start:functions`: the functions as a Node server. */
import { createDatabase } from '../src/db/client.js'
import { createApp } from './app.js'
import { EnvironmentError } from '../src/environment.js'
import { createRedactor, secretsOf } from '../src/redaction.js'
import { readServerConfig, type ServerConfig } from './config.js'
import { createJsonLogger } from './logger.js'
import { serveFunctions } from './serve.js'

const HELP = `Serves the HTTP API. Needs Postgres, migrated with npm run db:migrate, and nothing else.

  npm run start:functions

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
  EVENT_KEEP_MS         how long events are kept that nobody waits for yet (3600000)
  BODY_LIMIT_BYTES      larger bodies are refused (1048576)
  DATABASE_POOL_SIZE    connections at most (10)
  DATABASE_DEADLINE_MS  a statement that takes longer is answered with 503 (10000)
  DATABASE_QUEUE_SIZE   statements that wait for a connection at most; then 503 (1000)
  REDACT_KEYS           names whose values stand in no log and no history (password, token and the like)
  LOG_LEVEL             trace, debug, info, warn, error, fatal or silent (info)

.env.example describes these and the others. Stops on SIGTERM or SIGINT: answers what it has begun, then ends. /docs describes the API.`

const EXIT_FAILURE = 1
const EXIT_CONFIG = 2
const EXIT_INTERRUPTED = 130

async function main(config: ServerConfig): Promise<void> {
	const logger = createJsonLogger(
		'functions',
		config.logLevel,
		(line) => process.stdout.write(`${line}\n`),
		createRedactor({ keys: config.redactKeys, secrets: secretsOf(process.env) }),
	)
	const db = createDatabase(config.databaseUrl, {
		max: config.databasePoolSize,
		applicationName: 'flowcraft-functions',
	})
	const server = await serveFunctions({
		app: createApp({ ...config, db, logger }),
		host: config.host,
		port: config.port,
	})
	logger.info('Listening', { url: server.url })

	const stop = async (signal: NodeJS.Signals): Promise<void> => {
		logger.info('Stopping', { signal })
		await server.stop()
		await db.close()
		logger.info('Stopped')
	}
	let stopping = false
	for (const signal of ['SIGTERM', 'SIGINT'] as const) {
		process.on(signal, () => {
			// Whoever asks twice does not want to wait.
			if (stopping) process.exit(EXIT_INTERRUPTED)
			stopping = true
			stop(signal).catch(fail)
		})
	}
}

function fail(error: unknown): void {
	console.error(createRedactor({ secrets: secretsOf(process.env) }).text(explain(error)))
	process.exit(error instanceof EnvironmentError ? EXIT_CONFIG : EXIT_FAILURE)
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

const args = process.argv.slice(2)
if (args.includes('--help') || args.includes('-h')) {
	console.log(HELP)
} else if (args.length > 0) {
	console.error(`Unknown argument ${args[0]}. Settings come from the environment, see --help.`)
	process.exitCode = EXIT_CONFIG
} else {
	try {
		await main(readServerConfig(process.env))
	} catch (error) {
		fail(error)
	}
}
