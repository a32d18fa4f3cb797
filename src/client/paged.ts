/** A list in pages: awaited it is its first page, iterated it is everything on all of them. */
export interface Paged<Page, Item> extends PromiseLike<Page>, AsyncIterable<Item> {}

export function paged<Page extends { readonly nextCursor?: string }, Item>(
	read: (cursor: string | undefined) => Promise<Page>,
	itemsOf: (page: Page) => readonly Item[],
	cursor: string | undefined,
): Paged<Page, Item> {
	return {
		// oxlint-disable-next-line unicorn/no-thenable -- nothing is asked for before somebody awaits it
		then: (resolve, reject) => read(cursor).then(resolve, reject),
		async *[Symbol.asyncIterator]() {
			for (let next = cursor; ;) {
				const page = await read(next)
				yield* itemsOf(page)
				next = page.nextCursor
				if (next === undefined) return
			}
		},
	}
}
