/**
 * What a `wait` node waits for: a resume, and at the same time an event or the request to a webhook, until a timeout.
 *
 *   params.timeout              ms, or text like '5m'; the node fails when it is over
 *   params.eventName            an event of this name; `webhook:<id of a webhook node>` means that node's request, as
 *                               Flowcraft's compiler writes it
 *   params.correlationKey       only an event with this key …
 *   params.correlationKeyFrom   … or with the one that this names: a node, a context key, or a path into one of them
 *   params.webhookNodeId        the request to the webhook that this node has given out
 *
 * Without any of the last four, an input `{ url, event }`, which is what a webhook node returns, names its webhook.
 */
import { FlowcraftError, type NodeDefinition } from 'flowcraft'
import type { BlueprintGraph } from '../../src/blueprint/graph.js'
import type { AwaitedEvent } from '../../src/commit/commit.js'
import type { BufferedContext } from '../../src/context/node-context.js'
import { eventFaults } from '../../src/run/events.js'
import { WEBHOOK_EVENT_PREFIX } from '../../src/run/webhooks.js'
import { DURATION_FORMS, parseDuration } from './duration.js'
import { lookUp } from './node-input.js'

/** Nobody ended a node's wait before its timeout. Counts as a failed attempt: another one waits anew. */
export class NodeWaitTimeoutError extends Error {
	constructor(nodeId: string, wait: Readonly<Record<string, unknown>>) {
		const { eventName, timeoutMs, wakeUpAt } = wait
		const what =
			typeof eventName === 'string'
				? `Event '${eventName}', which node '${nodeId}' waits for, did not come`
				: `Nobody resumed node '${nodeId}'`
		const limit =
			typeof timeoutMs === 'number'
				? ` within ${timeoutMs} ms`
				: typeof wakeUpAt === 'string'
					? ` before ${wakeUpAt}`
					: ' in time'
		super(what + limit)
		this.name = 'NodeWaitTimeoutError'
	}
}

export interface Wait {
	readonly timeoutMs: number | undefined
	readonly event: AwaitedEvent | undefined
}

/** @throws FlowcraftError, fatal: another attempt would read the same */
export async function readWait(
	node: NodeDefinition,
	graph: BlueprintGraph,
	input: unknown,
	context: BufferedContext,
): Promise<Wait> {
	return { timeoutMs: timeoutOf(node), event: await eventOf(node, graph, input, context) }
}

/** What `workflowState.markAsAwaiting` was told to wait for. @throws FlowcraftError, fatal */
export function eventOfDetails(
	nodeId: string,
	{ eventName, correlationKey }: Readonly<Record<string, unknown>>,
): AwaitedEvent | undefined {
	if (eventName === undefined) return undefined
	return checked(nodeId, eventName, correlationKey)
}

function timeoutOf(node: NodeDefinition): number | undefined {
	const timeout: unknown = node.params?.['timeout']
	if (timeout === undefined) return undefined
	const timeoutMs = parseDuration(timeout)
	if (timeoutMs === undefined)
		throw invalid(
			node.id,
			`has the invalid timeout ${JSON.stringify(timeout)}: expected ${DURATION_FORMS}`,
		)
	return timeoutMs
}

async function eventOf(
	node: NodeDefinition,
	graph: BlueprintGraph,
	input: unknown,
	context: BufferedContext,
): Promise<AwaitedEvent | undefined> {
	const { eventName, correlationKey, correlationKeyFrom, webhookNodeId } = node.params ?? {}
	const pairedId = webhookNodeId ?? pairedWebhook(eventName, graph)
	if (pairedId !== undefined) {
		const webhook: unknown = await context.get(`_outputs.${String(pairedId)}`)
		if (!hasEvent(webhook))
			throw invalid(
				node.id,
				`waits for the webhook of node '${String(pairedId)}', which has given out none`,
			)
		return { name: webhook.event }
	}
	if (eventName !== undefined) {
		if (correlationKeyFrom === undefined) return checked(node.id, eventName, correlationKey)
		if (correlationKey !== undefined)
			throw invalid(node.id, 'has both correlationKey and correlationKeyFrom')
		const reference = String(correlationKeyFrom)
		const [key] = await lookUp([reference], context)
		if (key === undefined || key === null)
			throw invalid(node.id, `takes its correlation key from '${reference}', which has no value`)
		return checked(node.id, eventName, key)
	}
	return hasEvent(input) && 'url' in input && input.event.startsWith(WEBHOOK_EVENT_PREFIX)
		? { name: input.event }
		: undefined
}

/** The webhook node that an event is named after. */
function pairedWebhook(eventName: unknown, graph: BlueprintGraph): string | undefined {
	if (typeof eventName !== 'string' || !eventName.startsWith(WEBHOOK_EVENT_PREFIX)) return undefined
	const nodeId = eventName.slice(WEBHOOK_EVENT_PREFIX.length)
	return graph.nodes.has(nodeId) ? nodeId : undefined
}

/** Keys are compared as text: 7 and '7' are the same order. */
function checked(nodeId: string, name: unknown, key: unknown): AwaitedEvent {
	if (typeof name !== 'string')
		throw invalid(nodeId, `has the invalid eventName ${JSON.stringify(name)}: expected text`)
	if (key !== undefined && typeof key !== 'string' && typeof key !== 'number' && typeof key !== 'boolean') {
		throw invalid(
			nodeId,
			`has a correlation key that is neither text nor a number: ${JSON.stringify(key).slice(0, 100)}`,
		)
	}
	const event = { name, ...(key === undefined ? {} : { key: String(key) }) }
	const faults = name.startsWith(WEBHOOK_EVENT_PREFIX) ? [] : eventFaults(event)
	if (faults.length > 0)
		throw invalid(
			nodeId,
			`waits for an event that cannot come: ${faults.map(({ path, message }) => `its ${path.slice(1)} ${message}`).join(', ')}`,
		)
	return event
}

function hasEvent(value: unknown): value is { readonly event: string } {
	return typeof value === 'object' && value !== null && 'event' in value && typeof value.event === 'string'
}

function invalid(nodeId: string, why: string): FlowcraftError {
	return new FlowcraftError(`Wait node '${nodeId}' ${why}`, { nodeId, isFatal: true })
}
