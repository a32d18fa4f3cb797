/** The port `Doorbell` inside this process. */
import type { Doorbell, Ring } from '../../src/ports/doorbell.js'
import { type Logger, noLogger } from '../../src/ports/logger.js'
import { Listeners } from './listeners.js'

export interface InProcessDoorbellOptions {
	/** Default: says nothing. */
	readonly logger?: Logger
}

/** Listeners are called in a later turn of the event loop, never by `ring` itself. */
export function createInProcessDoorbell({ logger = noLogger }: InProcessDoorbellOptions = {}): Doorbell {
	const listeners = new Listeners(logger)
	return {
		ring: (ring: Ring) => listeners.call(ring),
		listen: (listener) => listeners.add(listener),
		async close() {
			listeners.close()
		},
	}
}
