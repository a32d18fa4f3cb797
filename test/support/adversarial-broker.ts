/** A broker as bad as one may be that loses nothing: every message twice, none in order, the second one late. */
import type { Broker } from '../../src/ports/broker.js'

/** The second delivery comes so much later at most, in ms. */
const MAX_DELAY_MS = 20

/** Counts what it has delivered again, so that a test can see that it did. */
export interface AdversarialBroker extends Broker {
	repeated(): number
}

export function adversarial(broker: Broker): AdversarialBroker {
	let repeated = 0
	const later = new Set<NodeJS.Timeout>()
	return {
		async publish(messages) {
			const shuffled = messages
				.map((message, position) => ({ message, position, key: Math.random() }))
				.sort((a, b) => a.key - b.key)
			const outcomes = await broker.publish(shuffled.map(({ message }) => message))
			for (const { message } of shuffled) {
				const timer = setTimeout(() => {
					later.delete(timer)
					repeated += 1
					void broker.publish([message])
				}, Math.random() * MAX_DELAY_MS)
				later.add(timer)
			}
			return shuffled
				.map((each, place) => ({ ...each, outcome: outcomes[place] }))
				.sort((a, b) => a.position - b.position)
				.map(({ outcome }) => outcome ?? { status: 'failed', reason: 'no answer' })
		},
		depth: (queue) => broker.depth(queue),
		consume: (options) => broker.consume(options),
		isConnected: () => broker.isConnected(),
		close: () => {
			for (const timer of later) clearTimeout(timer)
			return broker.close()
		},
		repeated: () => repeated,
	}
}
