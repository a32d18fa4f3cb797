/** Reading runs' contexts: single keys at the cost of single keys, the whole only for whoever asks for it. */
import { type Executor, query, textArray } from '../db/query.js'

/** Where a node's reads go; values are texts as the codec wrote them, null is `undefined`. */
export interface ContextReader {
	/** The asked keys that exist. */
	readKeys(runId: string, keys: readonly string[]): Promise<ReadonlyMap<string, string | null>>
	/** Every key that has a value. */
	readAll(runId: string): Promise<ReadonlyMap<string, string>>
}

/** Some keys of one run. */
export interface KeysOfRun {
	readonly runId: string
	readonly keys: readonly string[]
}

/** Reads straight from the database, one statement per call. */
export function createContextReader(db: Executor): ContextReader {
	return {
		async readKeys(runId, keys) {
			const [found] = await readKeysOfRuns(db, [{ runId, keys }])
			return found ?? new Map()
		},
		async readAll(runId) {
			const rows = await query<{ key: string; value: string }>(
				db,
				'select key, value from flowcraft_context_entries($1::text)',
				[runId],
			)
			return new Map(rows.map((row) => [row.key, row.value]))
		},
	}
}

/** The keys of several runs in one statement; answers in the order of `asked`. */
export async function readKeysOfRuns(
	db: Executor,
	asked: readonly KeysOfRun[],
): Promise<Map<string, string | null>[]> {
	const pairs = asked.flatMap(({ runId, keys }, position) =>
		[...new Set(keys)].map((key) => ({ position, runId, key })),
	)
	const found = asked.map(() => new Map<string, string | null>())
	if (pairs.length === 0) return found
	const rows = await query<{ ix: number; value: string | null }>(
		db,
		'select ix, value from flowcraft_context_get_many($1::text::text[], $2::text::text[])',
		[textArray(pairs.map(({ runId }) => runId)), textArray(pairs.map(({ key }) => key))],
	)
	for (const row of rows) {
		const pair = pairs[row.ix - 1]
		if (pair !== undefined) found[pair.position]?.set(pair.key, row.value)
	}
	return found
}
