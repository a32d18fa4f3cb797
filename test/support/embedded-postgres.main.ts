/** Owns the embedded Postgres in DATA_DIR until SIGTERM, as `npm start` does. */
import { noLogger } from '../../src/ports/logger.js'
import { startEmbeddedPostgres } from '../../worker/embedded/postgres.js'

try {
	const server = await startEmbeddedPostgres({
		dataDir: process.env['DATA_DIR'] ?? '',
		log: { ...noLogger, info: console.log, warn: console.log, error: console.log },
	})
	console.log(`url ${server.url}`)
	process.once('SIGTERM', () => void server.stop())
} catch (error) {
	console.log(error instanceof Error ? `${error.name}: ${error.message}` : error)
	process.exitCode = 1
}
