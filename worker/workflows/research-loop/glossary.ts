/** What there is to read: a small glossary, whose entries explain each other. */

/** By term; each text is a sentence or two. */
export const GLOSSARY: Readonly<Record<string, string>> = {
	run: 'One execution of a blueprint. It goes on as long as one of its nodes is alive.',
	blueprint: 'A workflow as data: nodes, and edges between them.',
	node: 'A step of a run. A worker that wants to execute it needs a claim.',
	edge: 'A way from one node to the next, which may depend on a condition.',
	worker: 'A process that executes nodes. It shows with a heartbeat that it is there.',
	heartbeat: 'A sign of life that extends the lease of a worker, from a thread of its own.',
	lease: 'The time for which a silent worker still counts as alive. After that a sweep takes its nodes.',
	claim: 'The right to execute one node and to finish it, proved by a token.',
	token: 'A value that nobody else has. A commit under an old one writes nothing.',
	commit: 'The one write that makes the result of a node true, the rows of the outbox included.',
	outbox: 'A table of messages to publish, written together with what they tell of.',
	relay: 'A process that publishes what is in the outbox and deletes what is confirmed.',
	sweep: 'A look for workers whose lease has passed, and for messages that were lost.',
	message: 'A hint that a node can run. It may come twice, or never.',
	join: 'A node that waits for several edges.',
}

const wordsOf = (text: string): string[] => text.toLowerCase().match(/[a-z]+/g) ?? []

/** Terms of the glossary that a text uses, in singular or plural, in the order in which they come. */
export function termsIn(text: string): string[] {
	const terms = wordsOf(text).map((word) =>
		[word, word.replace(/s$/, '')].find((form) => Object.hasOwn(GLOSSARY, form)),
	)
	return [...new Set(terms.filter((term) => term !== undefined))]
}
