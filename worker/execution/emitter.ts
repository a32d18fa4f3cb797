/**
 * What nodes emit while they run (`dependencies.emit`): collected for a moment, then kept with one statement for all nodes
 * of this worker. It is for those who watch, no part of a result: a worker that dies takes with it what it has not kept
 * yet, and nothing that goes wrong here fails a node.
 */
import type { ClaimedNode } from '../../src/claim/claim.js'
import { type EmittedBatch, keepEmitted } from '../../src/claim/emit.js'
import type { ValueCodec } from '../../src/context/values.js'
import { withDeadline } from '../../src/db/errors.js'
import type { Executor } from '../../src/db/query.js'
import type { Logger } from '../../src/ports/logger.js'

/**
 * Hands data to whoever watches the run. Returns at once unless much is waiting to be kept; never rejects.
 * @throws UnstorableValueError for data that is no JSON
 */
export type Emit = (data: unknown) => Promise<void>

export interface NodeEmitter {
	readonly emit: Emit
	/** Keeps what is left, if Postgres takes it in time. What is emitted later is dropped. */
	close(): Promise<void>
}

export interface Emitter {
	/** For one execution of a node. */
	open(claimed: ClaimedNode): NodeEmitter
}

export interface EmitterOptions {
	readonly db: Executor
	readonly codec: ValueCodec
	readonly logger: Logger
	/** What is emitted waits for so long at most, to be kept together; in ms. Default 100. */
	readonly flushMs?: number
	/** How much one execution of a node may emit. Default 10000. */
	readonly maxCount?: number
	/** The same in characters of JSON. Default 1 Mi. */
	readonly maxCharacters?: number
}

const DEADLINE_MS = 10_000
/** Pause before what Postgres did not take is tried again, in ms. */
const RETRY_MS = 500
/** How long the end of a node waits for its data to be kept, in ms. */
const CLOSE_MS = 5_000
/** More is not left waiting for the next round: it begins now, and whoever awaits `emit` waits for it. */
const FULL_CHARACTERS = 256 * 1024

interface Open {
	readonly claimed: ClaimedNode
	/** What has been emitted and is not under way yet. */
	texts: (string | null)[]
	/** Emitted so far. */
	count: number
	characters: number
	truncated: boolean
	closed: boolean
}

export function createEmitter(options: EmitterOptions): Emitter {
	const { db, codec, logger, flushMs = 100, maxCount = 10_000, maxCharacters = 1024 * 1024 } = options
	/** Executions that have data waiting. */
	let waiting = new Set<Open>()
	let waitingCharacters = 0
	let round: Promise<void> | undefined
	let timer: NodeJS.Timeout | undefined

	function schedule(): void {
		if (round === undefined) timer ??= setTimeout(() => void flush(), flushMs)
	}

	/** Begins a round, or waits for the one that is under way. */
	function flush(): Promise<void> {
		clearTimeout(timer)
		timer = undefined
		return (round ??= keep().finally(() => {
			round = undefined
			if (waiting.size > 0) schedule()
		}))
	}

	async function keep(): Promise<void> {
		const opens = [...waiting]
		if (opens.length === 0) return
		const batches = opens.map(({ claimed, texts, count }): EmittedBatch => ({
			key: claimed.key,
			token: claimed.token,
			first: count - texts.length + 1,
			data: texts,
		}))
		waiting = new Set()
		waitingCharacters = 0
		for (const open of opens) open.texts = []
		// Repeated as it is: Postgres may have kept it although we were not told.
		for (const begin = performance.now(); ;) {
			try {
				await withDeadline('Keeping what nodes emit', DEADLINE_MS, keepEmitted(db, batches))
				return
			} catch (error) {
				if (opens.every(({ closed }) => closed) || performance.now() - begin > 3 * DEADLINE_MS) {
					logger.warn('What nodes have emitted could not be kept', { nodes: opens.length, error })
					return
				}
				await new Promise((resolve) => setTimeout(resolve, RETRY_MS))
			}
		}
	}

	function add(open: Open, data: unknown): void {
		if (open.closed || open.truncated) return
		const text = codec.encode('emit', data) ?? 'null'
		open.count += 1
		open.characters += text.length
		open.truncated = open.count > maxCount || open.characters > maxCharacters
		open.texts.push(open.truncated ? null : text)
		waiting.add(open)
		waitingCharacters += text.length
		if (open.truncated) {
			const { runId, nodeId } = open.claimed.key
			logger.warn('A node emits more than is kept', { runId, nodeId, maxCount, maxCharacters })
		}
	}

	return {
		open(claimed) {
			const open: Open = {
				claimed,
				texts: [],
				count: 0,
				characters: 0,
				truncated: false,
				closed: false,
			}
			return {
				// Not async: what cannot be stored is told to the caller, who may not be waiting.
				emit(data) {
					add(open, data)
					if (waitingCharacters >= FULL_CHARACTERS) return flush()
					if (waiting.size > 0) schedule()
					return Promise.resolve()
				},
				async close() {
					const late = performance.now() + CLOSE_MS
					open.closed = true
					if (open.count === 0) return
					// The round under way may have begun before the last of it was emitted.
					do {
						if (!(await inTime(flush(), late - performance.now()))) return
					} while (waiting.has(open))
				},
			}
		},
	}
}

/** Whether work ends within so many ms; it goes on in any case. */
async function inTime(work: Promise<void>, ms: number): Promise<boolean> {
	let timer: NodeJS.Timeout | undefined
	const late = new Promise<boolean>((resolve) => {
		timer = setTimeout(() => resolve(false), ms)
	})
	try {
		return await Promise.race([work.then(() => true), late])
	} finally {
		clearTimeout(timer)
	}
}
