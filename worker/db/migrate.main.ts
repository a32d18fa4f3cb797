/** `npm run db:migrate`: brings the database of DATABASE_URL to the newest schema. */
import { z } from 'zod'
import { answerArguments } from '../../src/arguments.js'
import { refusalOf } from '../../src/db/refusal.js'
import { databaseUrl, EnvironmentError, readEnvironment } from '../../src/environment.js'
import { migrate } from './migrate.js'

const HELP = `Brings a database to the newest schema. May be repeated, and run beside the old programs under load.

  DATABASE_URL=postgres://user:password@host:5432/database npm run db:migrate`

answerArguments(process, HELP)
try {
	const { DATABASE_URL } = readEnvironment(process.env, z.object({ DATABASE_URL: databaseUrl }))
	const applied = await migrate(DATABASE_URL)
	console.log(
		applied === 0
			? 'Nothing to do: the database is at the newest schema already.'
			: `Applied ${applied} ${applied === 1 ? 'migration' : 'migrations'}: the database is at the newest schema.`,
	)
} catch (error) {
	if (error instanceof EnvironmentError) {
		console.error(`${error.message}\n\nSee .env.example, or --help.`)
		process.exit(2)
	}
	const message = refusalOf(error) ?? (error instanceof Error ? error.message : String(error))
	console.error(`Migration failed: ${message}`)
	process.exit(1)
}
