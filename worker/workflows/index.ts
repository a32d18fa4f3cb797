/**
 * The default of `WORKFLOWS`: what a worker loads when it is given no module of its own. Such a module exports
 * `blueprints` and `registry` under the names of Flowcraft's runtime options; add yours here, or write your own.
 */
import { createContentModeration } from './content-moderation/content-moderation.js'
import { documents } from './document-processing/document-processing.js'
import { createOrder } from './order/order.js'
import { research } from './research-loop/research-loop.js'

const moderation = createContentModeration(process.env)
const order = createOrder(process.env)

export const blueprints = {
	...moderation.blueprints,
	...documents.blueprints,
	...order.blueprints,
	...research.blueprints,
}

export const registry = {
	...moderation.registry,
	...documents.registry,
	...order.registry,
	...research.registry,
}
