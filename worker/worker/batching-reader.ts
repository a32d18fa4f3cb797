/** Reads of all nodes that a worker has in hand, in micro-batches: a batch of a thousand items is no thousand statements. */
import {
	type ContextReader,
	createContextReader,
	type KeysOfRun,
	readKeysOfRuns,
} from '../../src/context/reading.js'
import { whileUnavailable } from '../../src/db/retry.js'
import type { Executor } from '../../src/db/query.js'
import { createBatcher } from '../../src/batcher.js'

const MAX_BATCH = 50

export function createBatchingReader(db: Executor): ContextReader {
	const reader = createContextReader(db)
	const batcher = createBatcher<KeysOfRun, ReadonlyMap<string, string | null>>({
		run: (asked) => whileUnavailable('Reading context keys', () => readKeysOfRuns(db, asked)),
		maxSize: MAX_BATCH,
		concurrency: 2,
		soon: setImmediate,
	})
	return {
		readKeys: async (runId, keys) => (keys.length === 0 ? new Map() : batcher.add({ runId, keys })),
		readAll: (runId) => whileUnavailable('Reading a context', () => reader.readAll(runId)),
	}
}
