/**
 * `flowcraft-outbox`: runs, blueprints and contexts for whoever has a connection to Postgres, on any host. No broker, no
 * Redis, no module of Node's; what needs those is `flowcraft-outbox/worker`. Importing this opens nothing.
 *
 * Each function takes an `Executor` first: a `createDatabase(url)`'s `sql`, or a postgres.js or Drizzle client or
 * transaction of the caller's. In a transaction, what they write becomes true with it.
 */
export { createDatabase, type Database, type DatabaseOptions } from './db/client.js'
export type { DrizzleExecutor, Executor } from './db/query.js'

// ── Runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
export { startRun, startRuns, type StartedRun, type StartRunInput } from './run/start.js'
export { type CancelledRun, cancelRun } from './run/cancel.js'
export { type ResumedRun, type ResumeInput, resumeRun } from './run/resume.js'
export { type EventInput, sendEvent, type SendEventOptions, type SentEvent } from './run/events.js'
export { receiveWebhook, type WebhookRequest } from './run/webhooks.js'
export type { WokenNode } from './run/woken.js'
export {
	type AwaitingNode,
	isTerminal,
	listRuns,
	type ListRunsInput,
	readRun,
	type Run,
	type RunError,
	type RunPage,
	type RunSummary,
} from './run/read.js'
export { type PausedRun, pauseRun, unpauseRun } from './run/pause.js'
export { type RetriedRun, type RetryInput, retryRun } from './run/retry.js'
export {
	type ErrorDetails,
	listNodes,
	type NodeHistoryInput,
	type NodePage,
	type NodeRun,
	type SupersededAttempt,
} from './run/node-history.js'
export { type EventPage, listRunEvents, type RunEvent, type RunEventsInput } from './run/run-events.js'
export {
	type DeadLetter,
	type DeadLetterPage,
	discardDeadLetter,
	listDeadLetters,
	replayDeadLetter,
} from './run/dead-letters.js'
export { waitForRun, type WaitOptions } from './run/wait.js'
export { type WatchBatch, type WatchedEvent, type WatchOptions, watchRun } from './run/watch.js'
export { waitForWorkflow, type WorkflowEnd } from './run/wait-for-workflow.js'
export type { NodeState, RunStatus } from './db/schema.js'

// ── Blueprints ───────────────────────────────────────────────────────────────────────────────────────────────────────
export {
	type BlueprintSummary,
	listBlueprints,
	readBlueprint,
	registerBlueprint,
	type RegisteredBlueprint,
	type StoredBlueprint,
} from './blueprint/register.js'

// ── Contexts and values ──────────────────────────────────────────────────────────────────────────────────────────────
export { PostgresContext, type PostgresContextOptions } from './context/postgres-context.js'
export { createValueCodec, UnstorableValueError, type ValueCodec } from './context/values.js'

// ── Errors, grouped by what the caller must do ───────────────────────────────────────────────────────────────────────
export { ConflictError, type Fault, GoneError, InvalidInputError, NotFoundError } from './errors.js'
export { classifyDatabaseError, type DatabaseFailure, DeadlineError } from './db/errors.js'

// ── Ports, for implementations of one's own ──────────────────────────────────────────────────────────────────────────
export type {
	Broker,
	ConsumeOptions,
	Delivery,
	OutboundMessage,
	PublishOutcome,
	Subscription,
} from './ports/broker.js'
export { type Doorbell, noDoorbell, type Ring } from './ports/doorbell.js'
export { type Logger, noLogger } from './ports/logger.js'
