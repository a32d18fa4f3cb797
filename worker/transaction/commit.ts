/**
 * The commit of a node with `onCommit`: its statements and the engine's own in one interactive transaction.
 *
 *   1. BEGIN, and a look at the claim: whoever has lost it runs nothing.
 *   2. The callbacks, one after the other.
 *   3. `flowcraft_commit`: locks the run, looks at the claim again, applies the node's result.
 *   4. COMMIT, if the node was applied; ROLLBACK in any other case.
 *
 * The run is locked in step 3 and not before. So a callback, however long it takes, holds up neither the other nodes of its
 * run nor a cancel; and the engine's locks are the last that the transaction takes, while nobody who holds one of them
 * ever waits for the user's. What a zombie's callback has written is rolled back, since step 3 then finds the claim lost.
 *
 * Whatever ends in doubt begins again at step 1, where the look tells whether the COMMIT had come through after all; and if
 * that very COMMIT is still under way, step 3 waits for its lock and then finds the node finished.
 */
import postgres from 'postgres'
import { lookAtClaim, type ClaimLook } from '../../src/claim/claim.js'
import {
	type CommitOutcome,
	commitNodeInside,
	type CommitResult,
	type NodeCommit,
} from '../../src/commit/commit.js'
import { classifyDatabaseError } from '../../src/db/errors.js'
import { type Executor, query } from '../../src/db/query.js'
import { withJitter } from '../../src/loop.js'
import type { Logger } from '../../src/ports/logger.js'
import { toError } from '../execution/attempt.js'
import { sleep } from '../worker/commits.js'
import { ConnectionLostError, type TransactionConnection } from './connection.js'
import { type CommitTransaction, createHandle } from './handle.js'
import type { TransactionPool } from './pool.js'

export type CommitCallback = (tx: CommitTransaction) => unknown

export interface TransactionalCommitterOptions {
	readonly pool: TransactionPool
	/** Another way to the same database. */
	readonly db: Executor
	/** Told of each commit that was applied. */
	readonly onApplied: (result: CommitResult) => void
	readonly logger: Logger
}

export interface TransactionalCommitter {
	/**
	 * Runs the callbacks and applies the commit, both or neither.
	 *
	 * @param signal aborts whatever waits, for Postgres too; not a COMMIT that is under way
	 * @param limit aborts the callbacks: the signal, or the attempt has had its time
	 * @throws OnCommitError if the callbacks, or what they have left behind, are at fault; what Postgres says of the node's
	 *   own data; the signal's reason
	 */
	commit(
		commit: NodeCommit,
		callbacks: readonly CommitCallback[],
		signal: AbortSignal,
		limit: AbortSignal,
	): Promise<{ readonly outcome: CommitOutcome; readonly refusal: string | undefined }>
	close(): Promise<void>
}

/** An `onCommit` callback failed: nothing of its transaction was applied, and the attempt counts as failed. */
export class OnCommitError extends Error {
	override readonly cause: Error
	constructor(cause: Error) {
		super(cause.message, { cause })
		this.name = 'OnCommitError'
		this.cause = cause
	}
}

/** A callback that waits for anything but its own statements for so long has failed, in ms: it holds locks meanwhile. */
const CALLBACK_IDLE_MS = 10_000
/** Deadlocks, serialization failures and lost connections after which the attempt counts as failed. */
const MAX_REPEATS = 20
const MIN_PAUSE_MS = 20
const MAX_PAUSE_MS = 2_000

/** One try: it came to an end, or has to begin again. */
type Try =
	| { readonly type: 'ended'; readonly outcome: CommitOutcome; readonly refusal: string | undefined }
	/** @property counts not if no callback has run: Postgres is away, and will be asked for as long as it takes */
	| { readonly type: 'again'; readonly because: Error; readonly counts: boolean }

export function createTransactionalCommitter(options: TransactionalCommitterOptions): TransactionalCommitter {
	const { pool, db, onApplied, logger } = options

	async function tryOnce(
		commit: NodeCommit,
		callbacks: readonly CommitCallback[],
		signal: AbortSignal,
		limit: AbortSignal,
	): Promise<Try> {
		const connection = await pool.take(signal)
		let isClean = false
		const undo = async (): Promise<void> => {
			await connection.run('rollback').then(
				() => {
					isClean = true
				},
				() => {},
			)
		}
		try {
			let look: ClaimLook
			try {
				connection.failure = undefined
				await connection.run('begin isolation level read committed read write')
				look = await lookAtClaim(executorOf(connection), commit.key, commit.token)
			} catch (error) {
				// Whatever it is, the node has nothing to do with it.
				return { type: 'again', because: toError(error), counts: false }
			}
			if (look.status !== 'held') {
				await undo()
				return { type: 'ended', outcome: look.status, refusal: undefined }
			}

			try {
				await runCallbacks(connection, callbacks, limit)
			} catch (error) {
				if (connection.isLost || limit.aborted) endBackend(connection, look)
				else await undo()
				if (limit.aborted) throw limit.reason
				return again(connection, error)
			}

			let applied: CommitResult | undefined
			try {
				applied = await commitNodeInside(executorOf(connection), look.transaction, commit)
			} catch (error) {
				await undo()
				return againOrRefused(connection, error)
			}
			if (applied === undefined) {
				await undo()
				throw new OnCommitError(
					new Error(
						'onCommit has ended its transaction itself: its statements must neither commit nor roll back',
					),
				)
			}
			const outcome = applied.outcomes[0] ?? 'lost'
			if (outcome !== 'committed') {
				await undo()
				if (outcome === 'lost') await refuseOwnLoss(commit)
				return { type: 'ended', outcome, refusal: applied.refusals.get(0) }
			}

			try {
				const { command } = await connection.run('commit')
				isClean = true
				if (command !== 'COMMIT') throw new Error(`Postgres answered a commit with ${command}`)
			} catch (error) {
				// Refused by a deferred constraint, for one: then the transaction is over. Lost: then nobody knows.
				isClean = !connection.isLost
				return again(connection, error)
			}
			onApplied(applied)
			return { type: 'ended', outcome, refusal: undefined }
		} finally {
			if (!isClean) connection.destroy('its transaction did not end in order')
			pool.giveBack(connection, isClean)
		}
	}

	/** The statement may still run, and hold locks, when nobody listens any more. */
	function endBackend(connection: TransactionConnection, { backend, transaction }: ClaimLook): void {
		connection.destroy('nobody waits for its transaction any more')
		query(
			db,
			`select pg_terminate_backend(pid) from pg_stat_activity
			where pid = $1::int and backend_xid::text = ($2::text::numeric % 4294967296)::text`,
			[backend, transaction],
		).catch((error: unknown) => logger.debug('A backend was not ended', { backend, error }))
	}

	/** The claim was there, is lost inside the transaction, and is there again without it: its own statements did it. */
	async function refuseOwnLoss({ key, token }: NodeCommit): Promise<void> {
		const { status } = await lookAtClaim(db, key, token).catch(() => ({ status: 'lost' }))
		if (status === 'held')
			throw new OnCommitError(
				new Error(
					'onCommit has ended its own run: its statements must leave the run of the node alone',
				),
			)
	}

	return {
		async commit(commit, callbacks, signal, limit) {
			for (let failures = 0, repeats = 0; ; failures++) {
				signal.throwIfAborted()
				const end = await tryOnce(commit, callbacks, signal, limit)
				if (end.type === 'ended') return end
				if (end.counts && ++repeats > MAX_REPEATS) throw new OnCommitError(end.because)
				if (failures % 10 === 0)
					logger.warn('A commit with onCommit has to be repeated', {
						runId: commit.key.runId,
						nodeId: commit.key.nodeId,
						error: end.because,
					})
				await sleep(withJitter(Math.min(MIN_PAUSE_MS * 2 ** failures, MAX_PAUSE_MS)), signal)
			}
		},
		close: () => pool.close(),
	}
}

/** @throws what a callback throws; ConnectionLostError; the signal's reason */
async function runCallbacks(
	connection: TransactionConnection,
	callbacks: readonly CommitCallback[],
	signal: AbortSignal,
): Promise<void> {
	let giveUp: (reason: unknown) => void = () => {}
	const givenUp = new Promise<never>((_, reject) => {
		giveUp = reject
	})
	const onAbort = (): void => giveUp(signal.reason)
	signal.addEventListener('abort', onAbort, { once: true })
	connection.limitIdle(CALLBACK_IDLE_MS, () => {
		const late = new Error(
			`onCommit has sent no statement for ${CALLBACK_IDLE_MS} ms: its transaction holds locks, so that it must not wait for others`,
		)
		connection.failure ??= late
		giveUp(late)
		connection.destroy(late.message)
	})
	try {
		for (const callback of callbacks) {
			signal.throwIfAborted()
			connection.resetTypes()
			const handle = createHandle(connection)
			// What a callback still does once it has lost this race meets a handle that is sealed.
			const work = async (): Promise<void> => {
				await callback(handle.tx)
				await connection.quiet()
			}
			try {
				await Promise.race([work(), connection.lost, givenUp])
			} finally {
				handle.seal(
					new Error('The onCommit callback has ended: its transaction takes no more statements'),
				)
			}
		}
	} finally {
		signal.removeEventListener('abort', onAbort)
		connection.limitIdle()
		connection.resetTypes()
	}
}

/** After the callbacks have begun: a failure of theirs, or one that has nothing to do with them. */
function again({ failure, isLost }: TransactionConnection, thrown: unknown): Try {
	const error = toError(thrown)
	// What the first refused statement said explains the rest, if a callback went on after it.
	const first = failure ?? error
	const isTheirs = failure === undefined ? !isLost && !isRepeatable(error) : !isRepeatable(failure)
	const isConsequence = isAbortedTransaction(error) || error instanceof ConnectionLostError
	if (isTheirs) throw new OnCommitError(isConsequence ? first : error)
	return { type: 'again', because: error, counts: true }
}

/** The engine's own statement was refused: for what the callbacks left behind, or for the node's own data. */
function againOrRefused(connection: TransactionConnection, error: unknown): Try {
	if (!isAbortedTransaction(error)) {
		if (classifyDatabaseError(error) === 'refused') throw error
		// Its wait for a lock has a limit too.
		if (codeOf(error) === '57014') return { type: 'again', because: toError(error), counts: true }
	}
	return again(connection, error)
}

/** Deadlock, serialization failure, a server that is short of something: the same may well succeed. */
const isRepeatable = (error: Error): boolean =>
	error instanceof ConnectionLostError ||
	(error instanceof postgres.PostgresError && /^(40|53|57P)/.test(error.code))

const isAbortedTransaction = (error: unknown): boolean => codeOf(error) === '25P02'

function codeOf(error: unknown): unknown {
	return error instanceof postgres.PostgresError ? error.code : undefined
}

/** `query` and its kind, on the connection of a transaction. */
function executorOf(connection: TransactionConnection): Executor {
	return {
		unsafe: (text: string, parameters: never[], options: object) =>
			connection.adopt(connection.client.unsafe(text, parameters, options)),
	} as unknown as Executor
}
