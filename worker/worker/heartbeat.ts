/** The heartbeat thread, seen from the worker. */
import { Worker as Thread } from 'node:worker_threads'
import { HEARTBEAT_STATEMENT } from '../../src/claim/worker-registry.js'
import type { Logger } from '../../src/ports/logger.js'

/** What the thread is given. */
export interface HeartbeatData {
	readonly databaseUrl: string
	readonly statement: string
	readonly workerId: string
	readonly leaseMs: number
}

/** `beat`: the lease is extended. `lost`: this worker was declared dead. `missed`: the database did not answer. */
export type HeartbeatMessage =
	| { readonly type: 'beat'; readonly workers: number }
	| { readonly type: 'lost' }
	| { readonly type: 'missed'; readonly error: string }

export interface HeartbeatOptions extends Omit<HeartbeatData, 'statement'> {
	readonly logger: Logger
	/** @param workers how many take from the same queue, this one among them */
	readonly onBeat?: (workers: number) => void
	/** This worker was declared dead, or has no heartbeat any more, which comes to the same. Called once. */
	readonly onLost: () => void
}

export interface Heartbeat {
	stop(): Promise<void>
}

export function startHeartbeat({ logger, onBeat, onLost, ...data }: HeartbeatOptions): Heartbeat {
	const workerData: HeartbeatData = { ...data, statement: HEARTBEAT_STATEMENT }
	const thread = new Thread(new URL('./heartbeat-thread.js', import.meta.url), { workerData, execArgv: [] })
	let ended = false
	const lose = (): void => {
		if (ended) return
		ended = true
		onLost()
	}
	thread.on('message', (message: HeartbeatMessage) => {
		if (message.type === 'beat') onBeat?.(message.workers)
		else if (message.type === 'lost') lose()
		else if (message.type === 'missed' && !ended)
			logger.warn('The heartbeat missed', { workerId: data.workerId, error: message.error })
	})
	thread.on('error', (error) =>
		logger.error('The heartbeat thread failed', { workerId: data.workerId, error }),
	)
	thread.on('exit', lose)
	return {
		async stop() {
			ended = true
			await thread.terminate()
		},
	}
}
