/** Vitest's global setup: opens the desk where test files ask for servers, and ends whatever was started for them. */
import { readFile } from 'node:fs/promises'
import type { TestProject } from 'vitest/node'
import { openDesk } from './services/desk.js'
import { createSuite, type Suite } from './services/suite.js'

declare module 'vitest' {
	export interface ProvidedContext {
		servicesUrl: string
	}
}

export default async function setUp(project: TestProject): Promise<() => Promise<void>> {
	const suite = createSuite()
	const desk = await openDesk(suite)
	project.provide('servicesUrl', desk.url)
	project.onTestsRerun(() => suite.forgetTemplate())
	// Those that come after everything else ask in time.
	if (project.name !== 'systems') await startEarly(suite, project.vitest.state.getPaths())
	return async () => {
		await desk.close()
		await suite.close()
	}
}

/** What the chosen files mention is started at once, so that the file that needs it need not wait as long. */
async function startEarly(suite: Suite, files: readonly string[]): Promise<void> {
	const sources = await Promise.all(files.map((file) => readFile(file, 'utf8').catch(() => '')))
	const mentioned = (pattern: RegExp): boolean => sources.some((source) => pattern.test(source))
	const early = [
		...(mentioned(/\b(freshDatabase|startEngine|createCore)\(/) ? [suite.postgres()] : []),
		...(mentioned(/\bredis\(/) ? [suite.redis()] : []),
		...(mentioned(/\brabbitMq\(/) ? [suite.rabbitMq()] : []),
	]
	// Whoever asks for it is told of a failure.
	for (const service of early) service.catch(() => {})
}
