//! The calls: each checks its origin and hands over to the file that does the work.
use polkadot_sdk::frame_support::pallet_macros::pallet_section;

/// Becomes part of the pallet's module.
#[pallet_section]
mod calls {
	// Call indices are upstream's where upstream has the call; our own start at 200.
	#[pallet::call]
	impl<T: Config> Pallet<T> {
		/// Votes weights in the open: [`Pallet::set_mechanism_weights`] of mechanism 0. Free.
		///
		/// ## Dispatch Origin, Errors, Events
		/// The same.
		#[pallet::call_index(0)]
		#[pallet::weight((
			T::WeightInfo::set_mechanism_weights(dests.len() as u32),
			DispatchClass::Normal,
			Pays::No
		))]
		pub fn set_weights(
			origin: OriginFor<T>,
			netuid: NetUid,
			dests: Column<T, Uid>,
			weights: Column<T, u16>,
			version_key: u64,
		) -> DispatchResult {
			let hotkey = ensure_signed(origin)?;
			Self::do_set_weights(hotkey, netuid, 0, &dests, &weights, version_key)
		}

		/// Stakes tokens of the caller on a hotkey. If it has as many nominators as it may, the one
		/// with the least stake gets it back, in favour of a newcomer who stakes more.
		///
		/// ## Dispatch Origin
		/// Signed by the coldkey that stakes.
		///
		/// ## Errors
		/// `SubnetNotExists`, `HotKeyAccountNotExists`; `AmountTooLow` below `MinStake`;
		/// `NotEnoughBalanceToStake`; `TooManyNominators` for a new nominator of a full hotkey who
		/// stakes no more than each of the others has.
		///
		/// ## Events
		/// `StakeAdded`, and `StakeRemoved` for the nominator who had to go.
		#[pallet::call_index(2)]
		#[pallet::weight(T::WeightInfo::add_stake(T::MaxNominators::get()))]
		pub fn add_stake(
			origin: OriginFor<T>,
			hotkey: T::AccountId,
			netuid: NetUid,
			amount_staked: u64,
		) -> DispatchResult {
			let coldkey = ensure_signed(origin)?;
			Self::do_add_stake(coldkey, hotkey, netuid, amount_staked)
		}

		/// Takes stake of the caller back from a hotkey, registered or not.
		///
		/// ## Dispatch Origin
		/// Signed by the coldkey that staked.
		///
		/// ## Errors
		/// `NotEnoughStakeToWithdraw`; `AmountTooLow` for 0, or if less than `MinStake` would remain
		/// (take all instead).
		///
		/// ## Events
		/// `StakeRemoved`.
		#[pallet::call_index(3)]
		#[pallet::weight(T::WeightInfo::remove_stake())]
		pub fn remove_stake(
			origin: OriginFor<T>,
			hotkey: T::AccountId,
			netuid: NetUid,
			amount_unstaked: u64,
		) -> DispatchResult {
			let coldkey = ensure_signed(origin)?;
			Self::do_remove_stake(coldkey, hotkey, netuid, amount_unstaked)
		}

		/// Publishes the address at which the caller serves. Free.
		///
		/// ## Dispatch Origin
		/// Signed by a hotkey registered in the subnet.
		///
		/// ## Errors
		/// `HotKeyNotRegisteredInNetwork`, `InvalidIpType`; `InvalidIpAddress` if the address is not
		/// publicly routable and the network is not a local one; `ServingRateLimitExceeded`,
		/// `InvalidPort`.
		///
		/// ## Events
		/// `AxonServed`.
		#[pallet::call_index(4)]
		#[pallet::weight((T::WeightInfo::serve_axon(), DispatchClass::Normal, Pays::No))]
		pub fn serve_axon(
			origin: OriginFor<T>,
			netuid: NetUid,
			version: u32,
			ip: u128,
			port: u16,
			ip_type: u8,
			protocol: u8,
			placeholder1: u8,
			placeholder2: u8,
		) -> DispatchResult {
			let hotkey = ensure_signed(origin)?;
			let block = Self::now();
			let axon = AxonInfo {
				block,
				version,
				ip,
				port,
				ip_type,
				protocol,
				placeholder1,
				placeholder2,
			};
			Self::check_axon(&hotkey, netuid, &axon)?;
			Axons::<T>::insert(netuid, &hotkey, axon);
			Self::deposit_event(Event::AxonServed { netuid, hotkey });
			Ok(())
		}

		/// Registers a hotkey at the current price, whatever it is.
		///
		/// Prefer [`Pallet::register_limit`]. Otherwise the same.
		#[pallet::call_index(7)]
		#[pallet::weight(T::WeightInfo::register(T::MaxUids::get()))]
		pub fn burned_register(
			origin: OriginFor<T>,
			netuid: NetUid,
			hotkey: T::AccountId,
		) -> DispatchResult {
			let coldkey = ensure_signed(origin)?;
			Self::do_register(coldkey, netuid, hotkey, u64::MAX)
		}

		/// Stakes if a subnet's token costs at most `limit_price` rao for 10⁹ units.
		///
		/// It always costs 10⁹, so all is staked or nothing, whatever `allow_partial` says.
		///
		/// ## Dispatch Origin
		/// Signed by the coldkey that stakes.
		///
		/// ## Errors
		/// `SlippageTooHigh` for a lower limit, and all of [`Pallet::add_stake`].
		///
		/// ## Events
		/// `StakeAdded`.
		#[pallet::call_index(88)]
		#[pallet::weight(T::WeightInfo::add_stake(T::MaxNominators::get()))]
		pub fn add_stake_limit(
			origin: OriginFor<T>,
			hotkey: T::AccountId,
			netuid: NetUid,
			amount_staked: u64,
			limit_price: u64,
			_allow_partial: bool,
		) -> DispatchResult {
			let coldkey = ensure_signed(origin)?;
			Self::do_add_stake_limit(coldkey, hotkey, netuid, amount_staked, limit_price)
		}

		/// Takes stake back if a subnet's token is worth at least `limit_price` rao for 10⁹ units.
		///
		/// It always is worth 10⁹, so all is taken or nothing, whatever `allow_partial` says.
		///
		/// ## Dispatch Origin
		/// Signed by the coldkey that staked.
		///
		/// ## Errors
		/// `SlippageTooHigh` for a higher limit, and all of [`Pallet::remove_stake`].
		///
		/// ## Events
		/// `StakeRemoved`.
		#[pallet::call_index(89)]
		#[pallet::weight(T::WeightInfo::remove_stake())]
		pub fn remove_stake_limit(
			origin: OriginFor<T>,
			hotkey: T::AccountId,
			netuid: NetUid,
			amount_unstaked: u64,
			limit_price: u64,
			_allow_partial: bool,
		) -> DispatchResult {
			let coldkey = ensure_signed(origin)?;
			Self::do_remove_stake_limit(coldkey, hotkey, netuid, amount_unstaked, limit_price)
		}

		/// Promises weights by their hash, BlakeTwo256 over the SCALE encoding of
		/// `(hotkey, netuid, uids, values, salt, version_key)`. Free. Counts as the neuron's vote.
		///
		/// ## Dispatch Origin
		/// Signed by a hotkey registered in the subnet.
		///
		/// ## Errors
		/// `SubnetNotExists`, `CommitRevealDisabled`, `HotKeyNotRegisteredInSubNet`,
		/// `CommittingWeightsTooFast`; `TooManyUnrevealedCommits` with ten waiting.
		///
		/// ## Events
		/// `WeightsCommitted`.
		#[pallet::call_index(96)]
		#[pallet::weight((T::WeightInfo::commit_weights(), DispatchClass::Normal, Pays::No))]
		pub fn commit_weights(
			origin: OriginFor<T>,
			netuid: NetUid,
			commit_hash: H256,
		) -> DispatchResult {
			let hotkey = ensure_signed(origin)?;
			Self::do_commit(&hotkey, netuid, commit_hash)?;
			Ok(())
		}

		/// Reveals promised weights, in the epoch that the commit named. Free.
		///
		/// Targets that were registered at or after the commit get 0: the voter meant their
		/// predecessor. Older commits of the hotkey are dropped. If the salt has at least 24 words,
		/// its first 16, little-endian, are recorded as the hash of the voter's score sheet; if it has
		/// at least 40, bits 0 to 255 of the 16 after those 24 say for which uids the voter vouches.
		/// Promises can be kept where votes have become open since, and whatever rules the subnet's
		/// owner has changed since.
		///
		/// ## Dispatch Origin
		/// Signed by the hotkey that committed.
		///
		/// ## Errors
		/// `NoWeightsCommitFound`, or `CommitRevealDisabled` where votes are open now;
		/// `InvalidRevealCommitHashNotMatch`, `RevealTooEarly`, `ExpiredWeightCommit`, and all of
		/// [`Pallet::set_mechanism_weights`] on the weights.
		///
		/// ## Events
		/// `WeightsSet`, `WeightsRevealed`.
		#[pallet::call_index(97)]
		#[pallet::weight((
			T::WeightInfo::reveal_weights(uids.len() as u32),
			DispatchClass::Normal,
			Pays::No
		))]
		pub fn reveal_weights(
			origin: OriginFor<T>,
			netuid: NetUid,
			uids: Column<T, Uid>,
			values: Column<T, u16>,
			salt: Salt,
			version_key: u64,
		) -> DispatchResult {
			let hotkey = ensure_signed(origin)?;
			Self::do_reveal(&hotkey, netuid, &uids, &values, &salt, version_key)?;
			Ok(())
		}

		/// Votes weights in the open. Free.
		///
		/// Values are relative; the largest is stored as 65,535. Explicit zeros are kept: with
		/// liquid alpha they let a bond decay that a missing entry would end. What the voter promised
		/// by commits before is dropped.
		///
		/// ## Dispatch Origin
		/// Signed by a hotkey registered in the subnet, with a validator permit unless it owns the
		/// subnet or votes only for itself.
		///
		/// ## Errors
		/// `CommitRevealEnabled`, `WeightVecNotEqualSize`, `SubnetNotExists`,
		/// `MechanismDoesNotExist` unless `mecid` is 0, `UidsLengthExceedUidsInSubNet`,
		/// `HotKeyNotRegisteredInSubNet`, `NotEnoughStakeToSetWeights`,
		/// `IncorrectWeightVersionKey`, `SettingWeightsTooFast`, `NeuronNoValidatorPermit`,
		/// `DuplicateUids`, `UidVecContainInvalidOne`, `WeightVecLengthIsLow`.
		///
		/// ## Events
		/// `WeightsSet`.
		#[pallet::call_index(119)]
		#[pallet::weight((
			T::WeightInfo::set_mechanism_weights(dests.len() as u32),
			DispatchClass::Normal,
			Pays::No
		))]
		pub fn set_mechanism_weights(
			origin: OriginFor<T>,
			netuid: NetUid,
			mecid: u8,
			dests: Column<T, Uid>,
			weights: Column<T, u16>,
			version_key: u64,
		) -> DispatchResult {
			let hotkey = ensure_signed(origin)?;
			Self::do_set_weights(hotkey, netuid, mecid, &dests, &weights, version_key)
		}

		/// Registers a hotkey if the price is at most `limit_price` rao. The price is burned.
		///
		/// A full subnet prunes the neuron that earned least at the last epoch; ties fall on the
		/// older registration, then on the lower uid. Neurons in their immunity period are pruned
		/// only when few others can be, the owner's hotkey never.
		///
		/// ## Dispatch Origin
		/// Signed by the coldkey that pays and owns the hotkey.
		///
		/// ## Errors
		/// `RegistrationNotPermittedOnRootSubnet`, `SubnetNotExists`, `SubNetRegistrationDisabled`,
		/// `HotKeyAlreadyRegisteredInSubNet`, `RegistrationPriceLimitExceeded`,
		/// `NotEnoughBalanceToStake`, `NonAssociatedColdKey`, `TooManyOwnedHotkeys`,
		/// `NoNeuronIdAvailable`.
		///
		/// ## Events
		/// `NeuronRegistered`, and `NeuronPruned` for the hotkey that lost the slot.
		#[pallet::call_index(134)]
		#[pallet::weight(T::WeightInfo::register(T::MaxUids::get()))]
		pub fn register_limit(
			origin: OriginFor<T>,
			netuid: NetUid,
			hotkey: T::AccountId,
			limit_price: u64,
		) -> DispatchResult {
			let coldkey = ensure_signed(origin)?;
			Self::do_register(coldkey, netuid, hotkey, limit_price)
		}

		/// Registers a hotkey by work instead of the price, where the subnet allows it. Free, and
		/// the coldkey needs no account.
		///
		/// `work` is the seal, keccak256(SHA-256("subtensor-pow-register-v1" ‖ `netuid` as u16 ‖
		/// hash of `work_block` ‖ `hotkey` ‖ coldkey ‖ `nonce` as u64)), numbers little-endian. As a
		/// little-endian number it is at most (2²⁵⁶ − 1) / difficulty. The block is one of the last
		/// four, and younger than the hotkey's last registration by work. Slots and pruning are as
		/// with [`Pallet::register_limit`]; price and difficulty rise as with it.
		///
		/// ## Dispatch Origin
		/// Signed by the coldkey that owns the hotkey.
		///
		/// ## Errors
		/// `RegistrationNotPermittedOnRootSubnet`, `SubnetNotExists`,
		/// `HotKeyAlreadyRegisteredInSubNet`; `SubNetRegistrationDisabled` also without work;
		/// `InvalidWorkBlock`, `InvalidSeal`, `InvalidDifficulty`, `TooManyRegistrationsThisBlock`,
		/// `NonAssociatedColdKey`, `TooManyOwnedHotkeys`, `NoNeuronIdAvailable`.
		///
		/// ## Events
		/// `NeuronRegistered` with price 0, and `NeuronPruned` for the hotkey that lost the slot.
		#[pallet::call_index(205)]
		#[pallet::weight((
			T::WeightInfo::pow_register(T::MaxUids::get()),
			DispatchClass::Normal,
			Pays::No
		))]
		pub fn pow_register(
			origin: OriginFor<T>,
			netuid: NetUid,
			work_block: u64,
			nonce: u64,
			work: Seal,
			hotkey: T::AccountId,
		) -> DispatchResult {
			let coldkey = ensure_signed(origin)?;
			let work = pow::Work {
				block: work_block,
				nonce,
				seal: &work,
			};
			Self::do_pow_register(coldkey, netuid, hotkey, work)
		}

		/// Publishes hash and place of the subnet's spec. It holds from the next epoch.
		///
		/// ## Dispatch Origin
		/// Signed by the coldkey that owns the subnet.
		///
		/// ## Errors
		/// `SubnetNotExists`, `NotSubnetOwner`.
		///
		/// ## Events
		/// `SubnetSpecSet`.
		#[pallet::call_index(200)]
		#[pallet::weight(T::WeightInfo::set_subnet_spec())]
		pub fn set_subnet_spec(
			origin: OriginFor<T>,
			netuid: NetUid,
			hash: H256,
			url: Url,
		) -> DispatchResult {
			let coldkey = ensure_signed(origin)?;
			Self::check_owner(&coldkey, netuid)?;
			let from_epoch = Self::current_epoch(netuid).saturating_add(1);
			SubnetSpecs::<T>::insert(
				netuid,
				Spec {
					hash,
					url,
					from_epoch,
				},
			);
			Self::deposit_event(Event::SubnetSpecSet {
				netuid,
				hash,
				from_epoch,
			});
			Ok(())
		}

		/// Sets the subnets' relative shares in the emission. An empty list shares evenly; a subnet
		/// that is not in a non-empty list gets nothing.
		///
		/// ## Dispatch Origin
		/// Root.
		///
		/// ## Errors
		/// `InvalidEmissionShares`.
		///
		/// ## Events
		/// `EmissionSharesSet`.
		#[pallet::call_index(201)]
		#[pallet::weight(T::WeightInfo::set_emission_shares(shares.len() as u32))]
		pub fn set_emission_shares(
			origin: OriginFor<T>,
			shares: BoundedVec<(NetUid, u16), T::MaxSubnets>,
		) -> DispatchResult {
			ensure_root(origin)?;
			Self::store_emission_shares(shares.clone())?;
			Self::deposit_event(Event::EmissionSharesSet { shares });
			Ok(())
		}

		/// Changes hyperparameters of a subnet; absent ones stay. A new tempo holds from the next
		/// epoch on: the running one keeps its length.
		///
		/// ## Dispatch Origin
		/// Root, or signed by the coldkey that owns the subnet. The owner may not change all, has
		/// narrower bounds, changes each at most once in `OwnerHyperparamRateLimit` tempos, and
		/// nothing in the last `AdminFreezeWindow` blocks before an epoch.
		///
		/// ## Errors
		/// `SubnetNotExists`, `NotSubnetOwner`, `AdminActionProhibitedDuringWeightsWindow`,
		/// `OnlyRootMaySet`, `TxRateLimitExceeded`, `HyperparamOutOfBounds`.
		///
		/// ## Events
		/// `HyperparamsSet`.
		#[pallet::call_index(202)]
		#[pallet::weight(T::WeightInfo::set_hyperparams())]
		pub fn set_hyperparams(
			origin: OriginFor<T>,
			netuid: NetUid,
			update: HyperparamsUpdate,
		) -> DispatchResult {
			let owner = ensure_signed_or_root(origin)?;
			Self::do_set_hyperparams(owner, netuid, update)
		}

		/// Lowers what a hotkey's owner takes of its nominators' dividends.
		///
		/// ## Dispatch Origin
		/// Signed by the coldkey that owns the hotkey.
		///
		/// ## Errors
		/// `HotKeyAccountNotExists`, `NonAssociatedColdKey`; `DelegateTakeTooLow` if the take is not
		/// lower than now.
		///
		/// ## Events
		/// `TakeDecreased`.
		#[pallet::call_index(65)]
		#[pallet::weight(T::WeightInfo::decrease_take())]
		pub fn decrease_take(
			origin: OriginFor<T>,
			hotkey: T::AccountId,
			take: u16,
		) -> DispatchResult {
			let coldkey = ensure_signed(origin)?;
			Self::do_decrease_take(coldkey, hotkey, take)
		}

		/// Raises what a hotkey's owner takes of its nominators' dividends, when
		/// `TxDelegateTakeRateLimit` blocks have passed since the take last changed: nominators
		/// that came for a low take have that time to leave.
		///
		/// ## Dispatch Origin
		/// Signed by the coldkey that owns the hotkey.
		///
		/// ## Errors
		/// `HotKeyAccountNotExists`, `NonAssociatedColdKey`; `DelegateTakeTooLow` if the take is not
		/// higher than now; `DelegateTakeTooHigh` above 11,796; `DelegateTxRateLimitExceeded`.
		///
		/// ## Events
		/// `TakeIncreased`.
		#[pallet::call_index(66)]
		#[pallet::weight(T::WeightInfo::increase_take())]
		pub fn increase_take(
			origin: OriginFor<T>,
			hotkey: T::AccountId,
			take: u16,
		) -> DispatchResult {
			let coldkey = ensure_signed(origin)?;
			Self::do_increase_take(coldkey, hotkey, take)
		}

		/// Promises weights in several subnets, or in none if one of them fails. Free.
		///
		/// ## Dispatch Origin
		/// Signed by a hotkey registered in the subnets.
		///
		/// ## Errors
		/// `InputLengthsUnequal` if the lists differ in length or are empty, and all of
		/// [`Pallet::commit_weights`]. A subnet that occurs twice is `CommittingWeightsTooFast`.
		///
		/// ## Events
		/// `WeightsCommitted` for each.
		#[pallet::call_index(100)]
		#[pallet::weight((
			T::WeightInfo::commit_weights().saturating_mul(netuids.len() as u64),
			DispatchClass::Normal,
			Pays::No
		))]
		pub fn batch_commit_weights(
			origin: OriginFor<T>,
			netuids: BoundedVec<codec::Compact<NetUid>, T::MaxSubnets>,
			commit_hashes: BoundedVec<H256, T::MaxSubnets>,
		) -> DispatchResult {
			let hotkey = ensure_signed(origin)?;
			Self::do_batch_commit(&hotkey, &netuids, &commit_hashes)?;
			Ok(())
		}

		/// Reveals several of the caller's promises in one subnet, in the order of the lists, or none
		/// if one of them fails. Free. The last one's weights are those that stay.
		///
		/// ## Dispatch Origin
		/// Signed by the hotkey that committed.
		///
		/// ## Errors
		/// `InputLengthsUnequal` if the lists differ in length or are empty, and all of
		/// [`Pallet::reveal_weights`].
		///
		/// ## Events
		/// `WeightsSet` and `WeightsRevealed` for each.
		#[pallet::call_index(98)]
		#[pallet::weight((
			uids_list.iter().fold(Weight::zero(), |sum, uids| {
				sum.saturating_add(T::WeightInfo::reveal_weights(uids.len() as u32))
			}),
			DispatchClass::Normal,
			Pays::No
		))]
		pub fn batch_reveal_weights(
			origin: OriginFor<T>,
			netuid: NetUid,
			uids_list: PerCommit<Column<T, Uid>>,
			values_list: PerCommit<Column<T, u16>>,
			salts_list: PerCommit<Salt>,
			version_keys: PerCommit<u64>,
		) -> DispatchResult {
			let hotkey = ensure_signed(origin)?;
			Self::do_batch_reveal(
				&hotkey,
				netuid,
				&uids_list,
				&values_list,
				&salts_list,
				&version_keys,
			)?;
			Ok(())
		}

		/// Buys a subnet under the lowest free number, with default hyperparameters. The price is
		/// burned: twice the last one, falling with time ([`Pallet::network_lock_cost`]).
		///
		/// The hotkey becomes the subnet's first neuron and is never pruned. The subnet has no share
		/// in the emission until root gives it one, so nobody buys a way into it.
		///
		/// ## Dispatch Origin
		/// Signed by the coldkey that pays, owns the hotkey, and will own the subnet.
		///
		/// ## Errors
		/// `SubnetLimitReached`, `CannotAffordLockCost`, `NonAssociatedColdKey`,
		/// `TooManyOwnedHotkeys`.
		///
		/// ## Events
		/// `NetworkAdded`.
		#[pallet::call_index(59)]
		#[pallet::weight(T::WeightInfo::register_network(T::MaxSubnets::get()))]
		pub fn register_network(origin: OriginFor<T>, hotkey: T::AccountId) -> DispatchResult {
			let coldkey = ensure_signed(origin)?;
			Self::do_register_network(coldkey, hotkey)
		}

		/// Takes slots away from a subnet: it has `max_n` from now on. If it has more neurons, those
		/// that earned least at the last epoch go; ties fall on the older registration, then on the
		/// lower uid. The immune and the owner's stay. Neurons beyond the end move into the emptied
		/// slots, with their votes, bonds and scores; votes promised before follow them.
		///
		/// ## Dispatch Origin
		/// Signed by the coldkey that owns the subnet; not in the last `AdminFreezeWindow` blocks
		/// before an epoch, at most once in `TrimRateLimit` blocks, and not again while a vote from
		/// before the last trim can be revealed.
		///
		/// ## Errors
		/// `SubnetNotExists`, `NotSubnetOwner`, `AdminActionProhibitedDuringWeightsWindow`;
		/// `HyperparamOutOfBounds` below `MinOwnerUids` or not below the slots now;
		/// `TxRateLimitExceeded`; `TrimmingWouldExceedMaxImmunePercentage` if the neurons that stay
		/// anyway fill more than 80 % of the slots.
		///
		/// ## Events
		/// `SubnetTrimmed`, and `NeuronPruned` for each hotkey that lost its slot.
		#[pallet::call_index(203)]
		#[pallet::weight(T::WeightInfo::trim_subnet(T::MaxUids::get()))]
		pub fn trim_subnet(origin: OriginFor<T>, netuid: NetUid, max_n: u16) -> DispatchResult {
			let coldkey = ensure_signed(origin)?;
			Self::do_trim(coldkey, netuid, max_n)
		}

		/// Names a subnet and its token.
		///
		/// ## Dispatch Origin
		/// Signed by the coldkey that owns the subnet.
		///
		/// ## Errors
		/// `SubnetNotExists`, `NotSubnetOwner`; `InvalidIdentity` if either is not UTF-8.
		///
		/// ## Events
		/// `SubnetNamed`.
		#[pallet::call_index(204)]
		#[pallet::weight(T::WeightInfo::set_subnet_name())]
		pub fn set_subnet_name(
			origin: OriginFor<T>,
			netuid: NetUid,
			name: Label,
			symbol: Label,
		) -> DispatchResult {
			let coldkey = ensure_signed(origin)?;
			Self::do_name_subnet(coldkey, netuid, name, symbol)
		}

		/// Says which model the caller serves: the hash of its weights, and whether everybody can
		/// fetch them (`is_open`) or not. Free. The block is kept, so that nobody can say later that
		/// it was another; what was said before is in the chain's past. It ends with the slot.
		///
		/// ## Dispatch Origin
		/// Signed by a hotkey registered in the subnet.
		///
		/// ## Errors
		/// `HotKeyNotRegisteredInNetwork`; `ServingRateLimitExceeded`, of its own and not of
		/// [`Pallet::serve_axon`].
		///
		/// ## Events
		/// `ModelCommitted`.
		#[pallet::call_index(206)]
		// Reads and writes as many keys of the same size or smaller.
		#[pallet::weight((T::WeightInfo::serve_axon(), DispatchClass::Normal, Pays::No))]
		pub fn commit_model(
			origin: OriginFor<T>,
			netuid: NetUid,
			commitment: H256,
			is_open: bool,
		) -> DispatchResult {
			let hotkey = ensure_signed(origin)?;
			Self::check_model(&hotkey, netuid)?;
			let block = Self::now();
			let model = Model {
				commitment,
				is_open,
				block,
			};
			Models::<T>::insert(netuid, &hotkey, model);
			Self::deposit_event(Event::ModelCommitted {
				netuid,
				hotkey,
				commitment,
				is_open,
			});
			Ok(())
		}
	}
}
