/** Reading a run's context: single keys at the cost of single keys, the whole only for whoever asks for it. */
import { type Executor, query, textArray } from '../db/query.js'

/** The asked keys that exist, with their texts; null is `undefined`. */
export async function readKeys(db: Executor, runId: string, keys: readonly string[]): Promise<Map<string, string | null>> {
	if (keys.length === 0) return new Map()
	const rows = await query<{ key: string; value: string | null }>(
		db,
		'select key, value from flowcraft_context_get($1::text, $2::text::text[])',
		[runId, textArray([...new Set(keys)])],
	)
	return new Map(rows.map((row) => [row.key, row.value]))
}

/** Every key that has a value, with its text. */
export async function readAll(db: Executor, runId: string): Promise<Map<string, string>> {
	const rows = await query<{ key: string; value: string }>(db, 'select key, value from flowcraft_context_entries($1::text)', [runId])
	return new Map(rows.map((row) => [row.key, row.value]))
}
