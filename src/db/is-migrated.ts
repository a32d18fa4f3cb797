import { type Executor, query } from './query.js'

/** Whether the tables are there; of any version. */
export async function isMigrated(db: Executor): Promise<boolean> {
	const [row] = await query<{ migrated: boolean }>(
		db,
		`select to_regclass('flowcraft_statuses') is not null as migrated`,
	)
	return row?.migrated === true
}
