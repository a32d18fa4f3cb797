/** What a relay or worker tells on its `METRICS_PORT`. */

/** Values by metric name; the labels are ours and always the same. */
export async function metricsOf(port: number): Promise<Map<string, number>> {
	const response = await fetch(`http://127.0.0.1:${port}/metrics`)
	return parseMetrics(await response.text())
}

export function parseMetrics(text: string): Map<string, number> {
	const metrics = new Map<string, number>()
	for (const line of text.split('\n')) {
		const match = /^([A-Za-z_:][\w:]*)(?:\{[^}]*\})? (\S+)/.exec(line)
		if (match?.[1] !== undefined) metrics.set(match[1], (metrics.get(match[1]) ?? 0) + Number(match[2]))
	}
	return metrics
}
