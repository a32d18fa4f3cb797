/** Applies the migrations. Safe when many processes start at once: they queue behind one advisory lock. */
import { setTimeout as delay } from 'node:timers/promises'
import { drizzle } from 'drizzle-orm/postgres-js'
import { migrate as applyMigrations } from 'drizzle-orm/postgres-js/migrator'
import postgres, { type Sql } from 'postgres'
import { isDeadlock } from '../../src/db/errors.js'
import { withJitter } from '../../src/loop.js'
import { MIGRATIONS_DIR } from './sources.js'

/** Times that the migrations are begun anew after a deadlock with the load, and the pause before, in ms. */
const MAX_DEADLOCKS = 20
const DEADLOCK_PAUSE_MS = 200

/** Any constant that no other software takes; the digits spell "flowcraft" on a telephone. */
const MIGRATION_LOCK = 356_927_238n

/**
 * Brings the database at `databaseUrl` to the newest schema; does nothing if it is there already. All pending
 * migrations are one transaction, which waits for what runs, and begins anew where it got into a deadlock with it.
 *
 * @param migrationsFolder default: those of this package
 * @returns how many migrations it has applied
 * @throws what Postgres says, if it cannot be reached or refuses a statement.
 */
export async function migrate(databaseUrl: string, migrationsFolder = MIGRATIONS_DIR): Promise<number> {
	// One connection: the lock belongs to the session that applies the migrations.
	const client = postgres(databaseUrl, {
		max: 1,
		fetch_types: false,
		onnotice: () => {},
		connection: { application_name: 'flowcraft-migrate' },
	})
	try {
		await client.unsafe(`select pg_advisory_lock(${MIGRATION_LOCK})`)
		// Under the lock: nobody else's count among them.
		const before = await countApplied(client)
		const database = drizzle(client, { casing: 'snake_case' })
		for (let deadlocks = 0; ; deadlocks++) {
			try {
				await applyMigrations(database, {
					migrationsFolder,
					migrationsTable: 'flowcraft_migrations',
					migrationsSchema: 'drizzle',
				})
				return (await countApplied(client)) - before
			} catch (error) {
				if (!isDeadlock(error) || deadlocks === MAX_DEADLOCKS) throw error
				await delay(withJitter(DEADLOCK_PAUSE_MS))
			}
		}
	} finally {
		await client.end({ timeout: 5 })
	}
}

async function countApplied(client: Sql): Promise<number> {
	const [journal] = await client`select to_regclass('drizzle.flowcraft_migrations') is not null as present`
	if (journal?.['present'] !== true) return 0
	const [applied] = await client`select count(*)::int as count from drizzle.flowcraft_migrations`
	return Number(applied?.['count'])
}
