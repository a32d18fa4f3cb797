/** Waiting, which the caller's signal ends. */

/** @throws the signal's reason */
export async function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
	signal?.throwIfAborted()
	await new Promise<void>((resolve) => {
		const end = (): void => {
			clearTimeout(timer)
			signal?.removeEventListener('abort', end)
			resolve()
		}
		const timer = setTimeout(end, ms)
		signal?.addEventListener('abort', end, { once: true })
	})
	signal?.throwIfAborted()
}

/** How long to wait after so many failures in a row, in ms: doubles, with jitter. */
export function backoff(failures: number, minMs: number, maxMs: number): number {
	return Math.min(minMs * 2 ** (failures - 1), maxMs) * (0.75 + Math.random() * 0.5)
}
