/** Applies the migrations. Safe when many processes start at once: they queue behind one advisory lock. */
import { drizzle } from 'drizzle-orm/postgres-js'
import { migrate as applyMigrations } from 'drizzle-orm/postgres-js/migrator'
import postgres from 'postgres'
import { MIGRATIONS_DIR } from './sources.js'

/** Any constant that no other software takes; the digits spell "flowcraft" on a telephone. */
const MIGRATION_LOCK = 356_927_238n

/**
 * Brings the database at `databaseUrl` to the newest schema; does nothing if it is there already. All pending
 * migrations are one transaction.
 *
 * @throws what Postgres says, if it cannot be reached or refuses a statement.
 */
export async function migrate(databaseUrl: string): Promise<void> {
	// One connection: the lock belongs to the session that applies the migrations.
	const client = postgres(databaseUrl, {
		max: 1,
		fetch_types: false,
		onnotice: () => {},
		connection: { application_name: 'flowcraft-migrate' },
	})
	try {
		await client.unsafe(`select pg_advisory_lock(${MIGRATION_LOCK})`)
		await applyMigrations(drizzle(client, { casing: 'snake_case' }), {
			migrationsFolder: MIGRATIONS_DIR,
			migrationsTable: 'flowcraft_migrations',
			migrationsSchema: 'drizzle',
		})
	} finally {
		await client.end({ timeout: 5 })
	}
}
