/** Why a node's `signal` is aborted: each reason is an error of its own, so that a node can tell them apart. */

/** The attempt has taken longer than the node's `timeout`. Counts as a failed attempt. */
export class NodeTimeoutError extends Error {
	constructor(timeoutMs: number) {
		super(`The attempt took longer than its timeout of ${timeoutMs} ms`)
		this.name = 'NodeTimeoutError'
	}
}

/** The run was cancelled, or has ended otherwise: whatever the node still does is dropped. */
export class RunCancelledError extends Error {
	constructor(runId: string) {
		super(`Run '${runId}' was cancelled`)
		this.name = 'RunCancelledError'
	}
}

/** This worker was declared dead: the node runs, or will run, elsewhere. */
export class ClaimLostError extends Error {
	constructor() {
		super('This worker was silent for longer than its lease; its nodes run elsewhere now')
		this.name = 'ClaimLostError'
	}
}

/** The worker stops and the node did not end in time: it is given back and starts again elsewhere. */
export class WorkerDrainingError extends Error {
	constructor() {
		super('The worker is stopping')
		this.name = 'WorkerDrainingError'
	}
}
