/** Preloaded into processes of the benchmark: on SIGUSR2 they collect all garbage and say what is left. */
process.on('SIGUSR2', () => {
	globalThis.gc?.()
	const { heapUsed, external } = process.memoryUsage()
	console.log(`Heap after collection: ${heapUsed + external} bytes`)
})
