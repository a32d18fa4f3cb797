/** What one attempt of a node has registered with `onCommit`. */
import type { CommitCallback } from '../transaction/commit.js'

export class CommitCallbacks {
	/** In the order in which they run. */
	readonly all: CommitCallback[] = []
	#closed = false

	add(callback: CommitCallback): void {
		if (this.#closed)
			throw new Error('onCommit was called after the node had ended: nothing would call back')
		if (typeof callback !== 'function') throw new TypeError('onCommit takes a function')
		this.all.push(callback)
	}

	close(): void {
		this.#closed = true
	}
}
