/** What the server answers. Fields that a later server adds are there too, without a type. */

export type RunStatus = 'running' | 'awaiting' | 'paused' | 'completed' | 'failed' | 'cancelled'
export type NodeState =
	| 'pending'
	| 'ready'
	| 'running'
	| 'waiting'
	| 'child'
	| 'completed'
	| 'failed'
	| 'recovered'
	| 'cancelled'

/** The answer to a start, a pause. */
export interface RunState {
	readonly runId: string
	readonly status: RunStatus
}

export interface RunSummary extends RunState {
	readonly blueprint: string
	/** `metadata.version`, or the content hash of a blueprint without one. */
	readonly version: string
	/** Why it failed or was cancelled. */
	readonly reason?: string
	readonly tags?: readonly string[]
	readonly parentRunId?: string
	readonly parentNodeId?: string
	readonly createdAt: string
	readonly updatedAt: string
	readonly finishedAt?: string
}

export interface RunError<NodeId extends string = string> {
	readonly nodeId: NodeId
	readonly message: string
	readonly attempt: number
	readonly name?: string
	readonly isFatal?: boolean
	readonly stack?: string
}

export interface AwaitingNode<NodeId extends string = string> {
	readonly nodeId: NodeId
	/** `timer`, `external_event`, `child`, or what the node gave. */
	readonly reason: string
	readonly eventName?: string
	readonly correlationKey?: string
	readonly wakeUpAt?: string
	readonly childRunId?: string
}

/** @typeParam Context what its context holds, as far as it has been set, beside `_outputs.<node>` */
export interface Run<
	Context extends object = Record<string, unknown>,
	NodeId extends string = string,
> extends RunSummary {
	/** Only of a run that has ended. */
	readonly result?: {
		readonly context: Partial<Context> & Readonly<Record<string, unknown>>
		readonly status: RunStatus
	}
	readonly errors?: readonly RunError<NodeId>[]
	readonly awaiting?: readonly AwaitingNode<NodeId>[]
}

export interface RunPage {
	readonly runs: readonly RunSummary[]
	readonly nextCursor?: string
}

/** What a node threw. */
export interface ErrorDetails {
	readonly message: string
	readonly name?: string
	readonly stack?: string
	readonly isFatal?: boolean
	readonly cause?: ErrorDetails
}

export interface NodeRun {
	readonly nodeId: string
	/** Which turn of the loops around it, outermost first: `2.5`. `0`: the first, or in no loop. */
	readonly generation: string
	readonly recovers?: readonly string[]
	readonly state: NodeState
	/** The latest attempt, from 1. */
	readonly attempt: number
	readonly crashes: number
	readonly workerId?: string
	readonly createdAt: string
	readonly claimedAt?: string
	readonly finishedAt?: string
	readonly dueAt?: string
	readonly action?: string
	readonly error?: ErrorDetails
	readonly deadLetter?: string
	readonly waitReason?: string
	readonly childRunId?: string
	/** Since when no worker that took it had its implementation. */
	readonly unrunnableSince?: string
	/** Those that were followed by another one, oldest first. */
	readonly attempts: readonly {
		readonly attempt: number
		readonly outcome: 'failed' | 'crashed'
		readonly error?: ErrorDetails
		readonly workerId?: string
		readonly claimedAt?: string
		readonly recordedAt: string
	}[]
	/** If it was asked for. */
	readonly output?: unknown
}

export interface NodePage {
	readonly nodes: readonly NodeRun[]
	readonly nextCursor?: string
}

export interface CancelledRun extends RunState {
	/** Of repeated cancels, that of the first. */
	readonly reason: string
}

export interface ResumedRun extends RunState {
	readonly nodeId: string
}

export interface RetriedRun extends RunState {
	/** The nodes that are tried again. */
	readonly nodeIds: readonly string[]
}

export interface SentEvent {
	/** The waits that it has ended. */
	readonly woken: readonly { readonly runId: string; readonly nodeId: string }[]
	/** Kept for a wait that is still to come. */
	readonly kept: boolean
}

interface EventBase {
	/** To go on after this event. */
	readonly id: string
	readonly at: string
}
interface RunPayload {
	readonly blueprintId: string
	readonly executionId: string
}
interface NodeEventBase extends EventBase {
	/** Which turn of the loops around the node. */
	readonly generation: string
}
interface NodePayload extends RunPayload {
	readonly nodeId: string
}

/** What happens to a run and its nodes: Flowcraft's events as JSON, and what nodes emit. */
export type LiveEvent =
	| (EventBase & { readonly type: 'workflow:start' | 'workflow:resume'; readonly payload: RunPayload })
	| (EventBase & {
			readonly type: 'workflow:pause' | 'workflow:finish'
			readonly payload: RunPayload & { readonly status: RunStatus }
	  })
	| (NodeEventBase & {
			readonly type: 'node:start'
			readonly attempt: number
			readonly payload: NodePayload
	  })
	| (NodeEventBase & {
			readonly type: 'node:finish'
			readonly attempt: number
			readonly payload: NodePayload & { readonly result: { readonly action?: string } }
	  })
	| (NodeEventBase & {
			readonly type: 'node:error'
			readonly attempt: number
			readonly payload: NodePayload & { readonly error?: ErrorDetails }
	  })
	| (NodeEventBase & {
			readonly type: 'node:retry'
			readonly attempt: number
			readonly payload: NodePayload & {
				readonly attempt: number
				readonly outcome: 'failed' | 'crashed'
				readonly error?: ErrorDetails
			}
	  })
	| (NodeEventBase & {
			readonly type: 'node:fallback'
			readonly payload: NodePayload & { readonly fallback: string }
	  })
	| (NodeEventBase & {
			/** What a node has handed to `dependencies.emit`. */
			readonly type: 'node:emit'
			readonly attempt: number
			readonly payload: NodePayload & {
				readonly attempt: number
				/** How often a worker had died with the node before. */
				readonly crashes: number
				/** Counts from 1 within this execution of the node. */
				readonly seq: number
				readonly data?: unknown
				/** There was more than is kept; no data. */
				readonly truncated?: true
			}
	  })
