//! What neurons publish of themselves: their addresses, and the models that they serve.

use crate::*;
use core::net::{Ipv4Addr, Ipv6Addr};
use frame_support::ensure;

impl<T: Config> Pallet<T> {
	/// Every reason for which [`Pallet::serve_axon`] fails, in upstream's order.
	pub(crate) fn check_axon(
		hotkey: &T::AccountId,
		netuid: NetUid,
		axon: &AxonInfo,
	) -> Result<(), Error<T>> {
		ensure!(
			Uids::<T>::contains_key(netuid, hotkey),
			Error::<T>::HotKeyNotRegisteredInNetwork
		);
		let address = match axon.ip_type {
			4 => u32::try_from(axon.ip)
				.ok()
				.map(|bits| Reach::of_v4(bits.into())),
			6 => Some(Reach::of_v6(axon.ip.into())),
			_ => return Err(Error::<T>::InvalidIpType),
		};
		ensure!(
			match address {
				Some(Reach::Public) => true,
				Some(Reach::Private) => AllowPrivateAddresses::<T>::get(),
				Some(Reach::Nowhere) | None => false,
			},
			Error::<T>::InvalidIpAddress
		);
		Self::check_serving_rate(netuid, Axons::<T>::get(netuid, hotkey).map(|a| a.block))?;
		ensure!(axon.port != 0, Error::<T>::InvalidPort);
		Ok(())
	}

	/// Every reason for which [`Pallet::commit_model`] fails.
	pub(crate) fn check_model(hotkey: &T::AccountId, netuid: NetUid) -> Result<(), Error<T>> {
		ensure!(
			Uids::<T>::contains_key(netuid, hotkey),
			Error::<T>::HotKeyNotRegisteredInNetwork
		);
		Self::check_serving_rate(netuid, Models::<T>::get(netuid, hotkey).map(|m| m.block))
	}

	fn check_serving_rate(netuid: NetUid, last_block: Option<u64>) -> Result<(), Error<T>> {
		// Without a limit still once a block, so that free calls of one neuron cannot fill it.
		let limit = SubnetHyperparams::<T>::get(netuid)
			.serving_rate_limit
			.max(1);
		let is_fresh = last_block.is_some_and(|block| Self::now().saturating_sub(block) < limit);
		ensure!(!is_fresh, Error::<T>::ServingRateLimitExceeded);
		Ok(())
	}
}

/// From where an address can be reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Reach {
	/// The public internet.
	Public,
	/// This machine or this network.
	Private,
	/// It names no single host, or none that exists.
	Nowhere,
}

impl Reach {
	/// Registry: IANA IPv4 Special-Purpose Address Space.
	fn of_v4(ip: Ipv4Addr) -> Self {
		match ip.octets() {
			[0, ..] | [224..=255, ..] => Self::Nowhere, // this host, multicast, reserved, broadcast
			[192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Self::Nowhere, // documentation
			[192, 0, 0, _] | [192, 88, 99, _] => Self::Nowhere, // protocol assignments, 6to4 relays
			[198, 18..=19, ..] => Self::Nowhere,        // benchmarking
			[100, 64..=127, ..] => Self::Private,       // behind carrier-grade NAT
			_ if ip.is_private() || ip.is_loopback() || ip.is_link_local() => Self::Private,
			_ => Self::Public,
		}
	}

	/// Registry: IANA IPv6 Special-Purpose Address Space. Only 2000::/3 is handed out.
	fn of_v6(ip: Ipv6Addr) -> Self {
		match ip.segments() {
			[0x2001, 0..=0x01ff, ..] => Self::Nowhere, // protocol assignments, Teredo
			[0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => Self::Nowhere, // documentation
			[0x2002, ..] => Self::Nowhere,             // 6to4
			[0x2000..=0x3fff, ..] => Self::Public,
			[0xfc00..=0xfdff, ..] | [0xfe80..=0xfebf, ..] => Self::Private, // local by design
			_ if ip.is_loopback() => Self::Private,
			_ => Self::Nowhere, // multicast, unspecified, IPv4 in disguise, unassigned
		}
	}
}

#[cfg(test)]
mod reach_tests {
	use super::*;

	#[test]
	fn addresses_are_sorted_by_who_can_reach_them() {
		let v4 = |text: &str| Reach::of_v4(text.parse().unwrap());
		for public in [
			"1.1.1.1",
			"8.8.8.8",
			"100.63.255.255",
			"100.128.0.0",
			"172.32.0.1",
		] {
			assert_eq!(v4(public), Reach::Public, "{public}");
		}
		for private in [
			"10.0.0.1",
			"127.0.0.1",
			"127.1.2.3",
			"169.254.1.1",
			"172.16.0.1",
			"172.31.255.255",
			"192.168.1.1",
			"100.64.0.1",
			"100.127.255.255",
		] {
			assert_eq!(v4(private), Reach::Private, "{private}");
		}
		for nowhere in [
			"0.0.0.0",
			"0.1.2.3",
			"192.0.0.8",
			"192.0.2.1",
			"192.88.99.1",
			"198.18.0.1",
			"198.51.100.1",
			"203.0.113.1",
			"224.0.0.1",
			"239.255.255.255",
			"240.0.0.1",
			"255.255.255.255",
		] {
			assert_eq!(v4(nowhere), Reach::Nowhere, "{nowhere}");
		}
		let v6 = |text: &str| Reach::of_v6(text.parse().unwrap());
		assert_eq!(v6("2606:4700:4700::1111"), Reach::Public);
		for private in ["::1", "fe80::1", "fd00::1", "fc00::1"] {
			assert_eq!(v6(private), Reach::Private, "{private}");
		}
		for nowhere in [
			"::",
			"::ffff:127.0.0.1",
			"::ffff:8.8.8.8",
			"64:ff9b::808:808",
			"100::1",
			"2001::1",
			"2001:db8::1",
			"2002:7f00:1::",
			"3fff::1",
			"fec0::1",
			"ff02::1",
		] {
			assert_eq!(v6(nowhere), Reach::Nowhere, "{nowhere}");
		}
	}
}
