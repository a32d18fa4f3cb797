/**
 * Commits in micro-batches. One node's bad data fails that node alone, and an unreachable database is asked again for
 * as long as it takes: the claim is ours while the heartbeat lives, and a commit may be repeated.
 */
import {
	type CommitOutcome,
	commitNodes,
	type CommitResult,
	type Continued,
	type NodeCommit,
} from '../../src/commit/commit.js'
import { classifyDatabaseError, withDeadline } from '../../src/db/errors.js'
import type { Executor } from '../../src/db/query.js'
import { withJitter } from '../../src/loop.js'
import type { Doorbell } from '../../src/ports/doorbell.js'
import type { Logger } from '../../src/ports/logger.js'
import { createBatcher } from '../../src/batcher.js'
import type { Self } from './self.js'

/** Nodes per commit at most: past this, larger batches gain nothing. */
const MAX_BATCH = 200
/** A commit that takes longer is asked again; in ms. */
const COMMIT_DEADLINE_MS = 30_000
const MIN_RETRY_MS = 50
const MAX_RETRY_MS = 2_000

export interface Committer {
	/**
	 * @param signal aborts the asking-again, when the claim is lost anyway
	 * @throws what Postgres says of data that it refuses, or of a defect; the signal's reason
	 */
	commit(commit: NodeCommit, signal: AbortSignal): Promise<Committed>
	idle(): Promise<void>
}

export interface Committed {
	readonly outcome: CommitOutcome
	/** Why it was refused. */
	readonly refusal: string | undefined
	/** The claims that were offered and taken, by all commits of the batch. */
	readonly continued: ReadonlyMap<string, Continued>
}

type Answer = Committed | { readonly error: unknown }

/** @param self who goes on with what the commits offer */
export function createCommitter(
	db: Executor,
	doorbell: Doorbell,
	logger: Logger,
	self: Pick<Self, 'workerId'>,
): Committer {
	const apply = async (commits: readonly NodeCommit[]): Promise<Answer[]> => {
		try {
			const { outcomes, refusals, ended, emitted, continued } = await withDeadline(
				'A commit',
				COMMIT_DEADLINE_MS,
				commitNodes(db, commits, self.workerId),
			)
			announce(doorbell, { ended, emitted })
			return outcomes.map((outcome, position) => ({
				outcome,
				refusal: refusals.get(position),
				continued,
			}))
		} catch (error) {
			if (commits.length === 1 || classifyDatabaseError(error) === 'unavailable')
				return commits.map(() => ({ error }))
			// Somebody in this batch is at fault, and is found by halves: the others are not held up for long.
			const middle = commits.length >> 1
			return [...(await apply(commits.slice(0, middle))), ...(await apply(commits.slice(middle)))]
		}
	}
	const batcher = createBatcher<NodeCommit, Answer>({
		run: apply,
		maxSize: MAX_BATCH,
		concurrency: 2,
		soon: setImmediate,
	})

	return {
		async commit(commit, signal) {
			for (let failures = 0; ; failures++) {
				signal.throwIfAborted()
				const answer = await batcher.add(commit)
				if ('outcome' in answer) return answer
				if (classifyDatabaseError(answer.error) !== 'unavailable') throw answer.error
				if (failures % 10 === 0)
					logger.warn('A commit has to be repeated', {
						runId: commit.key.runId,
						nodeId: commit.key.nodeId,
						error: answer.error,
					})
				await sleep(withJitter(Math.min(MIN_RETRY_MS * 2 ** failures, MAX_RETRY_MS)), signal)
			}
		},
		idle: () => batcher.idle(),
	}
}

/** Wakes who has to do with what a commit has brought about. */
export function announce(
	doorbell: Doorbell,
	{ ended, emitted }: Pick<CommitResult, 'ended' | 'emitted'>,
): void {
	if (emitted > 0 || ended.length > 0) doorbell.ring({ type: 'outbox' })
	if (ended.length > 0) doorbell.ring({ type: 'ended', runIds: ended })
}

/** Ends early when the signal is aborted. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
	return new Promise((resolve) => {
		const timer = setTimeout(done, ms)
		function done(): void {
			clearTimeout(timer)
			signal?.removeEventListener('abort', done)
			resolve()
		}
		signal?.addEventListener('abort', done, { once: true })
	})
}
