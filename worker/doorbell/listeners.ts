/** Those in this process who listen to a doorbell. */
import type { Ring } from '../../src/ports/doorbell.js'
import type { Logger } from '../../src/ports/logger.js'

export class Listeners {
	readonly #logger: Logger
	/** By registration, so that one function may listen twice. */
	readonly #listeners = new Map<symbol, (ring: Ring) => void>()

	constructor(logger: Logger) {
		this.#logger = logger
	}

	add(listener: (ring: Ring) => void): () => void {
		const registration = Symbol('listener')
		this.#listeners.set(registration, listener)
		return () => {
			this.#listeners.delete(registration)
		}
	}

	/** In a later turn, so that whoever rings is neither delayed nor hit by what a listener does. */
	call(ring: Ring): void {
		if (this.#listeners.size > 0) setImmediate(() => this.#callNow(ring))
	}

	close(): void {
		this.#listeners.clear()
	}

	#callNow(ring: Ring): void {
		// By registration: a listener that another one has just removed is not called any more.
		for (const registration of [...this.#listeners.keys()]) {
			try {
				this.#listeners.get(registration)?.(ring)
			} catch (error) {
				this.#logger.error('A listener threw on a ring', {
					ring: ring.type,
					error: error instanceof Error ? error.message : String(error),
				})
			}
		}
	}
}
