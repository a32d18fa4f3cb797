/** Whether the database is as new as this program: told in one line at the start, not by each statement that fails. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createDatabase } from '../../src/db/client.js'
import { isMigrated } from '../../src/db/is-migrated.js'
import { refusalOf } from '../../src/db/refusal.js'
import { query } from '../../src/db/query.js'
import { StartError } from '../process.js'
import { MIGRATIONS_DIR } from './sources.js'

const REMEDY = 'run npm run db:migrate, or call migrate(databaseUrl).'

/**
 * A schema that is newer is in order: it is migrated before the programs are replaced.
 * @throws StartError if there is none, or an older one, or no way in; what Postgres says if it does not answer
 */
export async function expectSchema(databaseUrl: string): Promise<void> {
	const { sql, close } = createDatabase(databaseUrl, { max: 1 })
	try {
		if (!(await isMigrated(sql)))
			throw new StartError(`The database has no tables of flowcraft-outbox yet: ${REMEDY}`)
		const [journal] = await query<{ readable: boolean }>(
			sql,
			`select to_regclass('drizzle.flowcraft_migrations') is not null
				and has_table_privilege('drizzle.flowcraft_migrations', 'select') as readable`,
		)
		// Without it somebody has installed the schema by other means, and has to know.
		if (journal?.readable !== true) return
		const [applied] = await query<{ newest: string | null }>(
			sql,
			'select max(created_at)::text as newest from drizzle.flowcraft_migrations',
		)
		if (Number(applied?.newest ?? 0) < newestMigration())
			throw new StartError(
				`The tables of flowcraft-outbox in the database are older than this program: ${REMEDY}`,
			)
	} catch (error) {
		throw startErrorOf(error)
	} finally {
		await close()
	}
}

/** A database that does not exist, or does not let us in, is a matter of one sentence too. */
export function startErrorOf(error: unknown): unknown {
	const refusal = refusalOf(error)
	return refusal === undefined ? error : new StartError(refusal)
}

function newestMigration(): number {
	const journal = JSON.parse(readFileSync(join(MIGRATIONS_DIR, 'meta', '_journal.json'), 'utf8')) as {
		readonly entries: readonly { readonly when: number }[]
	}
	return Math.max(...journal.entries.map(({ when }) => when))
}
