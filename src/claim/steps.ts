/** Results saved inside a running node, so that a later attempt need not produce them again. */
import { checkKey, type ValueCodec } from '../context/values.js'
import { type Executor, type Parameter, query, type Row } from '../db/query.js'
import { whileUnavailable } from '../db/retry.js'
import type { ClaimedNode } from './claim.js'

/** Runs `fn` unless an attempt of this node has saved its result under this key; then that is the result. */
export type RunStep = <T>(key: string, fn: () => T | Promise<T>) => Promise<T>

/**
 * The `step` of one attempt. What `fn` returns is saved at once, before anything else of the node is; what it throws is
 * not. Calls under one key in one attempt share one run of `fn`.
 *
 * @param lost what to throw when the claim turns out to be somebody else's
 */
export function createStep(
	db: Executor,
	codec: ValueCodec,
	claimed: ClaimedNode,
	lost: () => Error,
): RunStep {
	const { key: node, token } = claimed
	const place = [node.runId, node.nodeId, node.generation, node.recovers]
	let saved: Promise<Map<string, string | null>> | undefined
	const underWay = new Map<string, Promise<unknown>>()
	// Reading and saving may both be repeated; a step that Postgres could not save has not failed.
	const ask = <T extends Row>(text: string, parameters: readonly Parameter[]): Promise<T[]> =>
		whileUnavailable('A step', () => query<T>(db, text, parameters))

	const load = async (): Promise<Map<string, string | null>> => {
		const rows = await ask<{ key: string; value: string | null }>(
			`select key, value from flowcraft_steps
			where run_id = $1::text and node_id = $2::text and generation = $3::text and recovers = $4::text`,
			place,
		)
		return new Map(rows.map((row) => [row.key, row.value]))
	}

	const run = async (key: string, fn: () => unknown): Promise<unknown> => {
		checkKey(key)
		const known = await (saved ??= load())
		const text = known.get(key)
		if (text !== undefined) return codec.decode(text)
		const result = await fn()
		const [row] = await ask<{ saved: boolean }>(
			'select flowcraft_save_step($1::text, $2::text, $3::text, $4::text, $5::text::uuid, $6::text, $7::text) as saved',
			[...place, token, key, codec.encode(key, result)],
		)
		if (row?.saved !== true) throw lost()
		return result
	}

	return async <T>(key: string, fn: () => T | Promise<T>): Promise<T> => {
		const current = underWay.get(key) ?? run(key, fn)
		underWay.set(key, current)
		try {
			return (await current) as T
		} catch (error) {
			// What failed may be tried again within the attempt.
			underWay.delete(key)
			throw error
		}
	}
}
