// polkadot.js against our chain: `node polkadot.mjs ws://…`. Prints one JSON object.
import { ApiPromise, Keyring, WsProvider } from '@polkadot/api';

const api = await ApiPromise.create({ provider: new WsProvider(process.argv[2]), noInitWarn: true });
const alice = new Keyring({ type: 'sr25519' }).addFromUri('//Alice');
const bob = new Keyring({ type: 'sr25519' }).addFromUri('//Newcomer');
const said = {
	specVersion: api.runtimeVersion.specVersion.toNumber(),
	tempo: (await api.query.subtensorModule.tempo(1)).toNumber(),
	price: (await api.query.subtensorModule.burn(1)).toString(),
	slotMs: api.consts.aura.slotDuration.toNumber(),
};

const inBlock = (call, signer) =>
	new Promise((resolve, reject) => {
		call.signAndSend(signer, (result) => {
			if (result.dispatchError) reject(new Error(result.dispatchError.toString()));
			else if (result.status.isFinalized)
				resolve(result.events.map(({ event }) => `${event.section}.${event.method}`));
		}).catch(reject);
	});
said.transferred = await inBlock(api.tx.balances.transferKeepAlive(bob.address, 3_000_000_000), alice);
said.registered = await inBlock(
	api.tx.subtensorModule.registerLimit(2, bob.address, 2_000_000_000),
	alice,
);
said.balance = (await api.query.system.account(bob.address)).data.free.toString();
const metagraph = await api.call.subnetInfoRuntimeApi.getMetagraph(2);
said.hotkeys = metagraph.unwrap().hotkeys.map(String);
said.heads = await new Promise((resolve) => {
	const seen = [];
	api.rpc.chain.subscribeNewHeads((head) => {
		seen.push(head.number.toNumber());
		if (seen.length === 3) resolve(seen);
	});
});
console.log(JSON.stringify(said));
await api.disconnect();
process.exit(0);
