/**
 * Flowcraft's `job:*` events, for the event bus that an adapter is given. The engine speaks of nodes; here that is said
 * in the adapter's words. Event buses only observe: what they throw changes nothing.
 */
import type { IEventBus } from 'flowcraft'
import { readJob } from '../../src/outbox/message.js'
import type { Broker } from '../../src/ports/broker.js'

type Event = Parameters<IEventBus['emit']>[0]

/** Starts that are remembered for the duration in `job:processed`; a node that waits may never come to an end. */
const MAX_STARTS = 10_000

/** The broker, telling `job:enqueued` of each message that it has confirmed for this queue. */
export function announceEnqueued(broker: Broker, queueName: string, eventBus: IEventBus): Broker {
	return {
		...broker,
		async publish(messages) {
			const outcomes = await broker.publish(messages)
			messages.forEach(({ exchange, routingKey, body }, position) => {
				if (
					outcomes[position]?.status !== 'confirmed' ||
					exchange !== undefined ||
					routingKey !== queueName
				)
					return
				const job = readJob(body)
				if (job === undefined) return
				const { blueprintId } = JSON.parse(body) as { blueprintId?: string }
				tell(eventBus, {
					type: 'job:enqueued',
					payload: {
						runId: job.runId,
						blueprintId: blueprintId ?? '',
						nodeId: job.nodeId,
						queueName,
					},
				})
			})
			return outcomes
		},
	}
}

/**
 * An event bus for a worker that hands everything on to `nodeEvents`, and tells `jobEvents` of each node that was
 * executed (`job:processed`) or failed for good (`job:failed`).
 */
export function announceProcessed(nodeEvents: IEventBus | undefined, jobEvents: IEventBus): IEventBus {
	const starts = new Map<string, number>()
	const durationOf = (name: string): number => {
		const startedAt = starts.get(name)
		starts.delete(name)
		return startedAt === undefined ? 0 : Math.round(performance.now() - startedAt)
	}
	return {
		emit(event) {
			switch (event.type) {
				case 'node:start': {
					starts.set(nameOf(event.payload), performance.now())
					const oldest = starts.keys().next()
					if (starts.size > MAX_STARTS && !oldest.done) starts.delete(oldest.value)
					break
				}
				case 'node:finish':
					tell(jobEvents, {
						type: 'job:processed',
						payload: {
							...jobOf(event.payload),
							duration: durationOf(nameOf(event.payload)),
							success: true,
						},
					})
					break
				case 'node:error':
					starts.delete(nameOf(event.payload))
					tell(jobEvents, {
						type: 'job:failed',
						payload: { ...jobOf(event.payload), error: event.payload.error },
					})
					break
				default:
					break
			}
			return nodeEvents?.emit(event)
		},
	}
}

interface NodePayload {
	readonly nodeId: string
	readonly executionId: string
	readonly blueprintId: string
}

const nameOf = ({ executionId, nodeId }: NodePayload): string => JSON.stringify([executionId, nodeId])

const jobOf = ({
	executionId,
	blueprintId,
	nodeId,
}: NodePayload): { runId: string; blueprintId: string; nodeId: string } => ({
	runId: executionId,
	blueprintId,
	nodeId,
})

function tell(eventBus: IEventBus, event: Event): void {
	void (async () => eventBus.emit(event))().catch(() => {})
}
