/** The runtime options that cases are run with, in process and distributed alike. */
import {
	type IEvaluator,
	type ISerializer,
	type Middleware,
	PropertyEvaluator,
	UnsafeEvaluator,
} from 'flowcraft'
import { noLogger } from '../../../src/ports/logger.js'
import type { Case } from './case.js'
import { registry } from './registry.js'

const throwing: IEvaluator = {
	evaluate(expression, context) {
		if (expression === 'throw') throw new Error('the expression throws')
		return new PropertyEvaluator().evaluate(expression, context) as unknown
	},
}

/** Writes to the context around each node. */
const counting: Middleware = {
	async beforeNode(context, nodeId) {
		const key = `around ${nodeId}`
		await context.set(key, Number((await context.get(key)) ?? 0) + 1)
	},
	async afterNode(context, nodeId, result) {
		await context.set(`after ${nodeId}` as never, result === undefined ? 'failed' : 'done')
	},
}

/** JSON with dates. */
const dates: ISerializer = {
	serialize: (data) =>
		JSON.stringify(data, function (this: Record<string, unknown>, key, value: unknown) {
			return this[key] instanceof Date ? { $date: this[key].getTime() } : value
		}),
	deserialize: (text) =>
		JSON.parse(text, (_, value: unknown) =>
			typeof value === 'object' && value !== null && '$date' in value
				? new Date(value.$date as number)
				: value,
		) as Record<string, unknown>,
}

/** With counters of its own for attempts: a run in process must not count those of a distributed one. */
export function optionsOf(setup: NonNullable<Case['setup']>) {
	return {
		registry,
		logger: noLogger,
		dependencies: { attempts: new Map<string, number>(), greeting: 'hello' },
		...(setup === 'unsafe' ? { evaluator: new UnsafeEvaluator() } : {}),
		...(setup === 'throwing' ? { evaluator: throwing } : {}),
		...(setup === 'middleware' ? { middleware: [counting] } : {}),
		...(setup === 'serializer' ? { serializer: dates } : {}),
	}
}
