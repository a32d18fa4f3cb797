/** Preloaded into processes of the benchmark: on SIGUSR2 they collect all garbage and say what is left. */
process.on('SIGUSR2', () => {
	// Twice: what finalizers let go of in the first is collected in the second.
	globalThis.gc?.()
	globalThis.gc?.()
	const { heapUsed, external } = process.memoryUsage()
	console.log(`Heap after collection: ${heapUsed + external} bytes`)
})
