/** Keeping what running nodes emit, for live readers. `src/db/sql/69_stream.sql` decides. */
import { type Executor, query, textArray } from '../db/query.js'
import type { NodeKey } from '../plan/node-key.js'

/** What one execution of a node has emitted in a row. */
export interface EmittedBatch {
	readonly key: NodeKey
	/** Of the claim; what its holder has lost the right to emit is dropped. */
	readonly token: string
	/** Which one of this execution the first of them is, from 1. */
	readonly first: number
	/** JSON texts; null says that whatever follows was too much. */
	readonly data: readonly (string | null)[]
}

/** May be repeated with the same batches. Returns how many of them were still their nodes' to emit. */
export async function keepEmitted(db: Executor, batches: readonly EmittedBatch[]): Promise<number> {
	const [row] = await query<{ held: number }>(
		db,
		`select flowcraft_emit($1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[], $5::text::uuid[],
			$6::text::int[], $7::text::text[]) as held`,
		[
			textArray(batches.map(({ key }) => key.runId)),
			textArray(batches.map(({ key }) => key.nodeId)),
			textArray(batches.map(({ key }) => key.generation)),
			textArray(batches.map(({ key }) => key.recovers)),
			textArray(batches.map(({ token }) => token)),
			textArray(batches.map(({ first }) => first)),
			textArray(batches.map(({ data }) => JSON.stringify(data))),
		],
	)
	return row?.held ?? 0
}
