/** `npm run db:migrate`: brings the database of DATABASE_URL to the newest schema. */
import { migrate } from './migrate.js'

if (process.argv.includes('--help') || process.argv.includes('-h')) {
	console.log(`Brings a database to the newest schema. May be repeated, and run beside the old programs under load.

  DATABASE_URL=postgres://user:password@host:5432/database npm run db:migrate`)
	process.exit()
}
const databaseUrl = process.env['DATABASE_URL']
if (databaseUrl === undefined || databaseUrl === '') {
	console.error(
		'DATABASE_URL is not set. Example: DATABASE_URL=postgres://user:password@localhost:5432/flowcraft npm run db:migrate',
	)
	process.exit(2)
}
try {
	await migrate(databaseUrl)
	console.log('The database is at the newest schema.')
} catch (error) {
	console.error(`Migration failed: ${error instanceof Error ? error.message : String(error)}`)
	process.exit(1)
}
