/**
 * Micro-batches: calls that arrive while a batch is under way share the next one, so that one statement and one
 * flush serve many nodes under load, and nobody waits when there is none.
 */

export interface BatcherOptions<T, R> {
	/** Does the batch; answers in order. A rejection rejects every call of the batch. */
	readonly run: (items: readonly T[]) => Promise<readonly R[]>
	/** Items per batch at most. */
	readonly maxSize: number
	/**
	 * Batches under way at once. Default 1. Beside others one begins when it is full, or when the last one has taken so long
	 * that it may be stuck: larger batches cost less than overlapping ones gain.
	 */
	readonly concurrency?: number
	/**
	 * When a batch begins whose first call found none under way: what comes until then shares it. Default `queueMicrotask`;
	 * Node's `setImmediate` waits for all deliveries of one socket read.
	 */
	readonly soon?: (begin: () => void) => void
}

export interface Batcher<T, R> {
	add(item: T): Promise<R>
	/** Resolves when nothing is queued or under way. */
	idle(): Promise<void>
}

interface Call<T, R> {
	readonly item: T
	readonly resolve: (answer: R) => void
	readonly reject: (error: unknown) => void
}

/** Nobody waits longer than that for a batch that may be stuck, in ms. */
const PATIENCE_MS = 25

export function createBatcher<T, R>({
	run,
	maxSize,
	concurrency = 1,
	soon = queueMicrotask,
}: BatcherOptions<T, R>): Batcher<T, R> {
	const queue: Call<T, R>[] = []
	let underWay = 0
	let scheduled = false
	let patience: ReturnType<typeof setTimeout> | undefined
	let onIdle: (() => void)[] = []

	const flush = async (): Promise<void> => {
		scheduled = false
		clearTimeout(patience)
		patience = undefined
		if (queue.length === 0 || underWay >= concurrency) return
		const calls = queue.splice(0, maxSize)
		underWay += 1
		schedule()
		try {
			const answers = await run(calls.map(({ item }) => item))
			calls.forEach(({ resolve }, position) => resolve(answers[position] as R))
		} catch (error) {
			for (const { reject } of calls) reject(error)
		} finally {
			underWay -= 1
			if (queue.length > 0) flushSoon()
			else if (underWay === 0) {
				for (const resolve of onIdle) resolve()
				onIdle = []
			}
		}
	}

	const flushSoon = (): void => {
		if (scheduled) return
		scheduled = true
		soon(() => void flush())
	}

	const schedule = (): void => {
		if (queue.length === 0 || underWay >= concurrency) return
		if (underWay === 0 || queue.length >= maxSize) flushSoon()
		else patience ??= setTimeout(() => void flush(), PATIENCE_MS)
	}

	return {
		add: (item) =>
			new Promise<R>((resolve, reject) => {
				queue.push({ item, resolve, reject })
				schedule()
			}),
		idle: () =>
			queue.length === 0 && underWay === 0
				? Promise.resolve()
				: new Promise((resolve) => onIdle.push(resolve)),
	}
}
